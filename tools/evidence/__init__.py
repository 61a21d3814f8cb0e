"""Evidence of finished runs: experiments and folders, statistics, plots, words for figures."""
