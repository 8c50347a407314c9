"""Links carry frames between nodes; they know nothing of what is in them."""
