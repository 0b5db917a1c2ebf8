"""What other tools take from an analysis or a network: DICOM, NIfTI, PNG, ONNX, a hub card."""
