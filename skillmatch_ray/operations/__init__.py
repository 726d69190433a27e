"""What those who run it need: checks, cluster manifests, the nightly run."""
