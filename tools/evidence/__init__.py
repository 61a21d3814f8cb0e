"""What finished runs say: experiments and folders, statistics, plots and words for figures."""
