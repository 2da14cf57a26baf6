"""Replicas behind a Front: who is asked, how an answer is carried, how many there are."""
