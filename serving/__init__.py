"""The endpoint: a Ray Serve application of models that vLLM or Transformers run, behind one door that speaks OpenAI's HTTP."""
