"""What a run says in plain sentences, from its tables and from nothing else."""
