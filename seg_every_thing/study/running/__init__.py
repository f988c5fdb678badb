"""Training the rows of a study: stages, features kept on disk, jobs."""
