"""Reading weights from elsewhere: safely, and from Detectron (Caffe2)."""
