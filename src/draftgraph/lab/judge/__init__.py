"""Which of the drafter's mismatches matter: mined from answers that are checked, and learnt by a head on hidden states."""
