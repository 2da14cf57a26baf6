"""Parity: do the trainer, Transformers and vLLM read the same tokens out of a conversation, and believe the same of them?"""
