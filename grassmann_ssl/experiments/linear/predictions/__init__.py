"""What theory says of training each objective: a file for each kind that it knows, chosen by `predict`."""
