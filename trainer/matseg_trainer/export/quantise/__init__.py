"""Integer graphs: a network rewritten in operators that have integer kernels, and quantised by onnxruntime."""
