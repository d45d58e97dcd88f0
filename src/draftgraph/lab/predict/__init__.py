"""What a pair will gain, from one teacher-forced pass."""
