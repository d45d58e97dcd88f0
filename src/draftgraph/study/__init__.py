"""What a pair will gain, predicted from its laws on sample texts before anything is decided: profile, acceptance, speed."""
