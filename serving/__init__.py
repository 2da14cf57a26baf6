"""The endpoint: a Ray Serve application whose replicas hold a vLLM engine and speak OpenAI's HTTP themselves."""
