def evaluate(*a):
    pass
