"""What several tabs share: the stage and what it is shown, the run panel, the words, the page itself. Torch-free."""
