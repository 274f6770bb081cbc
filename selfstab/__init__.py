"""The companion to the paper: the experiments of this book, what is kept of them, and what its chapters share."""
