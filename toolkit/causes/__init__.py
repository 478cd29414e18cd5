"""After a failure: symptoms of a row → its cause, named with the evidence."""
