"""A metadata.yaml for parts that were written one by one, which makes them one recording."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rosbags.rosbag2.metadata import dump_qos_v8
from ruamel.yaml import YAML

from ..decoding import embedded_definition
from ..outputs.writing import METADATA_VERSION
from ..reading import BagReader
from ..recordings import METADATA, Recording
from ...io import replacing


def join_parts(files: Sequence[Path]) -> None:
    """Write the metadata.yaml of files in one folder, which are the parts of a recording."""
    folder = files[0].parent
    with replacing(folder / METADATA) as path, path.open('w', encoding='utf-8') as opened:
        yaml = YAML(typ='safe')
        yaml.default_flow_style = False
        yaml.dump({'rosbag2_bagfile_information': _information(files)}, opened)


def leave_apart(folder: Path) -> None:
    """Remove the metadata.yaml of a folder, as long as not all parts are what they will be."""
    (folder / METADATA).unlink(missing_ok=True)


def _information(files: Sequence[Path]) -> dict[str, Any]:
    whole = BagReader(Recording(files[0].parent, tuple(files)))
    start = whole.start if whole.count else 0
    parts = [BagReader(file) for file in files]
    return {
        'version': METADATA_VERSION,
        'storage_identifier': whole.recording.storage,
        'relative_file_paths': [file.name for file in files],
        **_times(whole, start),
        'topics_with_message_count': [
            {
                'topic_metadata': {
                    'name': topic.name,
                    'type': topic.msgtype,
                    'serialization_format': 'cdr',
                    'offered_qos_profiles': dump_qos_v8(list(topic.channel.qos)),
                    'type_description_hash': embedded_definition(topic.channel)[1],
                },
                'message_count': topic.count,
            }
            for topic in whole.topics
        ],
        'compression_format': '',
        'compression_mode': '',
        'files': [
            {'path': file.name, **_times(part, start)}
            for file, part in zip(files, parts, strict=True)
        ],
        'custom_data': None,
        'ros_distro': 'rosbags',
    }


def _times(reader: BagReader, otherwise: int) -> dict[str, Any]:
    """Return start, duration and count; without a message the start is that of the whole."""
    return {
        'starting_time': {'nanoseconds_since_epoch': reader.start if reader.count else otherwise},
        'duration': {'nanoseconds': max(0, reader.end - reader.start) if reader.count else 0},
        'message_count': reader.count,
    }
