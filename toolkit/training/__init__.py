"""Training: dataset → checkpoint.

`train.py` is the verb and `loop.py` the page to read: the recipe says how, the order which images,
the feed brings them, the step computes, and the state resumes a training that was killed.
"""
