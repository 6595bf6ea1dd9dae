"""
Recordings without a ROS installation: features, matches, pictures, numbers.

`kpfeat bag extract` is read in this order: `request` (what is asked), `extract` (the run),
`plan` (topics, names and times), `reader` and `recording` (messages and files), `frames` (images
to features), `formats`, `writers` and `colmap` (where frames go). `match`, `render` and `stats` go
through the same frames; `batch` takes many recordings, `cluster` on Ray, with a `manifest`.
`chunks`, `mcap`, `ros1` and `sqlite` read files, damaged ones as far as they go.
"""
