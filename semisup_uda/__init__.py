"""Semi-supervised learning: UDA and FixMatch, whose strong view keeps the important region."""
