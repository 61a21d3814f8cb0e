"""Person re-identification: Bag of Tricks with Random Erasing, plain and Keep (Table 10)."""
