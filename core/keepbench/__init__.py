"""What every task of the benchmark needs to train and to be told apart."""
