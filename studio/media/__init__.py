"""Pictures: to and from tensors, from uploads, as previews and figures. The one place that knows pixels."""
