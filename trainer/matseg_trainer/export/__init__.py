"""A checkpoint becomes one ONNX file."""
