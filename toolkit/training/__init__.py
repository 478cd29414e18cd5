"""Training: dataset → checkpoint.

`train.py` is the entry point, and `loop.py` the best place to start reading. The recipe says how to
train, the order which images to use, the feed delivers them, the step computes, and the state
resumes an interrupted training.
"""
