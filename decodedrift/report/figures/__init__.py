"""What every figure is made of: the Bokeh plot, its sources, colours, legend and bounds."""
