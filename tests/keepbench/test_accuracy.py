import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from keepbench.accuracy import EvaluationSums, label_ranks, occluded


def some(num=40, classes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num, classes, generator=generator)
    return logits, torch.randint(classes, (num,), generator=generator)


def test_top_k_by_hand():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).expand(4, 4)
    labels = torch.arange(4)  # ranks 0 to 3
    assert label_ranks(logits, labels).tolist() == [0, 1, 2, 3]


def test_ranks_against_topk():
    logits, labels = some(200)
    for k in range(1, 8):
        right = (logits.topk(k).indices == labels[:, None]).any(1)
        assert torch.equal(label_ranks(logits, labels) < k, right)


def test_equal_logits_go_to_the_lower_class():
    assert label_ranks(torch.zeros(4, 4), torch.arange(4)).tolist() == [0, 1, 2, 3]


def test_nan_is_never_right():
    logits = torch.tensor([[float("nan"), 1.0], [0.0, float("nan")]])
    assert label_ranks(logits, torch.tensor([0, 0])).tolist() == [2, 1]


def test_calibration_error_by_hand():
    """Two bins: (0, 0.5] holds 0.5 right; (0.5, 1] holds 0.75 right, 1.0 wrong, 0.8 right."""
    confidence = torch.tensor([0.5, 0.75, 1.0, 0.8])
    probabilities = torch.stack((confidence, 1 - confidence), dim=1)
    sums = EvaluationSums.zeros(2, "cpu", bins=2)
    sums.update(probabilities.log(), torch.tensor([0, 0, 1, 0]))
    # gaps: 1 * |1 - 0.5| / 4 and 3 * |2 / 3 - 2.55 / 3| / 4
    assert sums.result()["ece"] == pytest.approx((0.5 + 0.55) / 4, abs=1e-6)


def calibration_error(probabilities, labels):
    """The slow way of Guo et al., equation 3."""
    confidence, guess = probabilities.max(1)
    error = 0.0
    for n in range(15):
        inside = (confidence > n / 15) & (confidence <= (n + 1) / 15)
        if inside.any():
            accuracy = (guess == labels)[inside].float().mean()
            error += inside.float().mean() * (accuracy - confidence[inside].mean()).abs()
    return error.item()


@pytest.mark.parametrize("classes", [3, 7])
def test_sums_over_chunks_are_the_whole(classes):
    logits, labels = some(41, classes)
    sums = EvaluationSums.zeros(classes, "cpu")
    for start in range(0, 41, 8):
        sums.update(logits[start : start + 8], labels[start : start + 8])
    expected = {
        "loss": F.cross_entropy(logits, labels).item(),
        "accuracy": 100 * (logits.argmax(1) == labels).double().mean().item(),
        "ece": calibration_error(logits.softmax(1), labels),
    }
    if classes >= 5:
        right = (logits.topk(5).indices == labels[:, None]).any(1)
        expected["top5"] = 100 * right.double().mean().item()
    assert sums.result() == pytest.approx(expected, rel=1e-5)
    assert sums.result() == sums.result()


def test_sums_take_logits_of_autocast_and_keep_no_graph():
    logits, labels = some()
    sums = EvaluationSums.zeros(7, "cpu")
    sums.update(logits.bfloat16().requires_grad_(), labels)
    assert not sums.loss.requires_grad
    whole = EvaluationSums.zeros(7, "cpu")
    whole.update(logits.bfloat16().float(), labels)
    assert sums.result() == whole.result()


PROCESS = """
import sys
import torch
import torch.distributed as dist
from keepbench.accuracy import EvaluationSums

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
logits = torch.eye(6)[: 2 + rank]  # two images in one process, three in the other
sums = EvaluationSums.zeros(6, "cpu")
sums.update(logits, torch.zeros(2 + rank, dtype=torch.long))
print({name: round(value, 6) for name, value in sums.result().items()})
dist.destroy_process_group()
"""


def test_sums_add_up_over_processes(tmp_path):
    commands = [
        [sys.executable, "-c", PROCESS, str(rank), str(tmp_path / "store")] for rank in range(2)
    ]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    try:
        printed = [process.communicate(timeout=100)[0] for process in running]
    finally:
        for process in running:
            process.kill()  # one that waits for another that failed
    logits = torch.cat((torch.eye(6)[:2], torch.eye(6)[:3]))
    whole = EvaluationSums.zeros(6, "cpu")
    whole.update(logits, torch.zeros(5, dtype=torch.long))
    expected = str({name: round(value, 6) for name, value in whole.result().items()})
    assert [text.splitlines()[-1] for text in printed] == [expected] * 2  # Gloo may say hello
    assert whole.result()["accuracy"] == 40


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_occlusion_is_one_square_of_the_share(share):
    images = torch.ones(30, 3, 40, 40)
    out = occluded(images, share, torch.Generator().manual_seed(0))
    gone = (out == 0).all(1)
    assert torch.equal((out == 0).any(1), gone)  # all channels alike
    side = round((share * 1600) ** 0.5)
    assert torch.equal(gone.sum((1, 2)), torch.full((30,), side**2))
    assert torch.equal(gone.any(2).sum(1), torch.full((30,), side))
    assert torch.equal(gone.any(1).sum(1), torch.full((30,), side))
    assert images.min() == 1


def test_occlusion_is_uniform_over_all_places():
    out = occluded(torch.ones(9000, 1, 3, 3), 1 / 9, torch.Generator().manual_seed(0))
    counts = (out == 0).sum(0).flatten().double()
    assert ((counts - 1000) ** 2 / 1000).sum() < 26.1  # chi-square, 8 degrees, one in a thousand


def test_no_occlusion_changes_nothing():
    images = torch.rand(2, 3, 5, 5)
    assert torch.equal(occluded(images, 0.0), images)
    assert not occluded(images, 1.0).any()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: label_ranks(torch.zeros(2, 3), torch.tensor([0, 3])), r"\[0, 3\)"),
        (lambda: label_ranks(torch.zeros(2), torch.tensor([0, 1])), r"\(B, K\)"),
        (lambda: EvaluationSums.zeros(3, "cpu", bins=0), "bins"),
        (lambda: EvaluationSums.zeros(3, "cpu").result(), "no images"),
        (
            lambda: EvaluationSums.zeros(3, "cpu").update(torch.eye(2), torch.arange(2)),
            r"\(B, 3\)",
        ),
        (lambda: occluded(torch.zeros(1, 3, 4, 4), 1.5), "share"),
        (lambda: occluded(torch.zeros(1, 3, 4, 40), 0.5), "does not fit"),
    ],
)
def test_errors_say_what_was_found(call, said):
    with pytest.raises(ValueError, match=said):
        call()
