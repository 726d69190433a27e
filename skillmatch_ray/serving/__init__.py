"""Ray Serve: project encoder, retriever, ingress, web page."""
