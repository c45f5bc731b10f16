class Effects:
    def __init__(self, values, axes, **kw):
        self.values, self.axes = values, axes
