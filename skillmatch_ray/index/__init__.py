"""Milvus: schema, filters, search plan, releases."""
