"""Recordings that are written, as the readers of ROS 2 take them."""

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from kpfeat_core.bags.reader import BagReader
from kpfeat_core.bags.recording import Channel, Record
from kpfeat_core.bags.writers import BagSink, put
from kpfeat_core.messages.definitions import typestore
from made_bags import make, START, STRING
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
import yaml

FOREVER = QosTime(2147483647, 4294967295)
LATCHED = Qos(
    QosHistory.KEEP_LAST,
    1,
    QosReliability.RELIABLE,
    QosDurability.TRANSIENT_LOCAL,
    FOREVER,
    FOREVER,
    QosLiveliness.AUTOMATIC,
    FOREVER,
    False,
)


@pytest.fixture(params=['mcap', 'sqlite3'])
def written(request, tmp_path):
    """Write one message of a latched topic and none of another to a folder."""
    channels = [Channel('/latched', STRING, qos=(LATCHED,)), Channel('/empty', STRING)]
    data = bytes(typestore().serialize_cdr(make(STRING, data='here'), STRING))
    sink = BagSink(tmp_path / 'out', request.param, channels)
    (tmp_path / 'work').mkdir()
    sink.open(tmp_path / 'work', resume=False)
    sink.copy(Record(channels[0], START, data))
    sink.finish()
    return tmp_path / 'out'


def test_quality_of_service_is_kept(written):
    topics = {topic.name: topic for topic in BagReader(written).topics}
    assert topics['/latched'].channel.qos == (LATCHED,)
    assert topics['/empty'].channel.qos == ()
    assert [topics[name].count for name in ('/latched', '/empty')] == [1, 0]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/old').write_text('old')
    with pytest.raises(FileNotFoundError):
        put(tmp_path / 'made', tmp_path / 'out')
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['old']


def test_metadata_are_of_a_version_that_humble_reads_as_well(written):
    about = yaml.safe_load((written / 'metadata.yaml').read_text())['rosbag2_bagfile_information']
    assert about['version'] <= 8
    profiles = {
        topic['topic_metadata']['name']: topic['topic_metadata']['offered_qos_profiles']
        for topic in about['topics_with_message_count']
    }
    # Humble takes a text here, later versions a list; policies in the text are numbers
    assert all(isinstance(text, str) for text in profiles.values())
    assert yaml.safe_load(profiles['/latched'])[0]['durability'] == 1
    assert profiles['/empty'] == ''
