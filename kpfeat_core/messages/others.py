"""
Messages of other packages that recordings are given: their fields, for who has not installed them.

Fields, their order and types are those of rtabmap_msgs (rtabmap_ros, branch ros2, BSD-3-Clause)
and foxglove_msgs 3.4 (foxglove-sdk, MIT); a receiver decodes by them alone.
"""

RGBD_IMAGE = 'rtabmap_msgs/msg/RGBDImage'
IMAGE_ANNOTATIONS = 'foxglove_msgs/msg/ImageAnnotations'

DEFINITIONS = {
    'rtabmap_msgs/msg/Point2f': 'float32 x\nfloat32 y\n',
    'rtabmap_msgs/msg/Point3f': 'float32 x\nfloat32 y\nfloat32 z\n',
    'rtabmap_msgs/msg/KeyPoint': """\
rtabmap_msgs/Point2f pt
float32 size
float32 angle
float32 response
int32 octave
int32 class_id
""",
    'rtabmap_msgs/msg/GlobalDescriptor': """\
std_msgs/Header header
int32 type
uint8[] info
uint8[] data
""",
    RGBD_IMAGE: """\
std_msgs/Header header
sensor_msgs/CameraInfo rgb_camera_info
sensor_msgs/CameraInfo depth_camera_info
sensor_msgs/Image rgb
sensor_msgs/Image depth
sensor_msgs/CompressedImage rgb_compressed
sensor_msgs/CompressedImage depth_compressed
rtabmap_msgs/KeyPoint[] key_points
rtabmap_msgs/Point3f[] points
uint8[] descriptors
rtabmap_msgs/GlobalDescriptor global_descriptor
""",
    'foxglove_msgs/msg/Point2': 'float64 x\nfloat64 y\n',
    'foxglove_msgs/msg/Color': 'float64 r\nfloat64 g\nfloat64 b\nfloat64 a\n',
    'foxglove_msgs/msg/KeyValuePair': 'string key\nstring value\n',
    'foxglove_msgs/msg/CircleAnnotation': """\
builtin_interfaces/Time timestamp
foxglove_msgs/Point2 position
float64 diameter
float64 thickness
foxglove_msgs/Color fill_color
foxglove_msgs/Color outline_color
foxglove_msgs/KeyValuePair[] metadata
""",
    'foxglove_msgs/msg/PointsAnnotation': """\
builtin_interfaces/Time timestamp
uint8 UNKNOWN=0
uint8 POINTS=1
uint8 LINE_LOOP=2
uint8 LINE_STRIP=3
uint8 LINE_LIST=4
uint8 type
foxglove_msgs/Point2[] points
foxglove_msgs/Color outline_color
foxglove_msgs/Color[] outline_colors
foxglove_msgs/Color fill_color
float64 thickness
foxglove_msgs/KeyValuePair[] metadata
""",
    'foxglove_msgs/msg/TextAnnotation': """\
builtin_interfaces/Time timestamp
foxglove_msgs/Point2 position
string text
float64 font_size
foxglove_msgs/Color text_color
foxglove_msgs/Color background_color
foxglove_msgs/KeyValuePair[] metadata
""",
    IMAGE_ANNOTATIONS: """\
builtin_interfaces/Time timestamp
foxglove_msgs/CircleAnnotation[] circles
foxglove_msgs/PointsAnnotation[] points
foxglove_msgs/TextAnnotation[] texts
foxglove_msgs/KeyValuePair[] metadata
""",
}
