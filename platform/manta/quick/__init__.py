"""A recipe out of a few words: a model, a file and perhaps a task give the rest, each setting with its reason.

`names` knows what tasks are called elsewhere, `columns` tells a task by a file's columns, `facts` looks at the file, the
model and the machine, `choices` decides by these alone, `form` puts the recipe together and writes it down.
"""
