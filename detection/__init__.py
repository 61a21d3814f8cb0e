"""Detection: export of a backbone to Detectron2, and fine-tuning on COCO (Table 11)."""
