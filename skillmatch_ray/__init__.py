"""Find the freelancers who have the skills: a multilingual two-tower retriever on Ray and Milvus."""
