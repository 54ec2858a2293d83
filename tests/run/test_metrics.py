"""Metrics files: exact numbers, fixed columns, cuts on resumption."""

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from metalearn.run.errors import MetricsError
from metalearn.run.metrics import CsvLog, EventLog, read_csv
from tests.run.folder_case import FolderCase


def read_events(path) -> list[event_pb2.Event]:
    """An own reader of the record format: length, checksum, data, checksum."""
    data, events = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        body = data[12 : 12 + length]
        assert int.from_bytes(data[12 + length : 16 + length], "little") == masked_crc32c(body)
        events.append(event_pb2.Event.FromString(body))
        data = data[16 + length :]
    return events


class CsvTest(FolderCase):
    def setUp(self):
        super().setUp()
        self.path = self.folder / "metrics.csv"

    def write(self, steps, resume_step=0):
        with CsvLog(self.path, resume_step=resume_step) as log:
            for step in steps:
                log.write(step, {"loss": step / 10, "n": step})

    def test_numbers_are_exact(self):
        third = np.float32(1) / 3
        with CsvLog(self.path) as log:
            row = {
                "a": jnp.float32(third),
                "b": 0.1 + 0.2,
                "c": jnp.int32(-7),
                "d": True,
                "e": np.nan,
                "f,g": jnp.bfloat16(3),
            }
            log.write(3, row)
        self.assertEqual(
            self.path.read_text(),
            'step,a,b,c,d,e,"f,g"\n3,0.3333333432674408,0.30000000000000004,-7,1,nan,3.0\n',
        )
        table = read_csv(self.path)
        self.assertEqual(list(table), ["step", "a", "b", "c", "d", "e", "f,g"])
        self.assertEqual(np.float32(table["a"][0]), third)
        self.assertTrue(np.isnan(table["e"][0]))

    @parameterized.parameters("", "4", "4,0.4", "4,0.4,4", "4,0.4,4\n4,0.5", "4,0.4,4\n5,0.5,5\n6,0.6,6\n")
    def test_resuming_cuts_later_rows_and_torn_lines(self, tail):
        self.write([1, 2, 3])
        with open(self.path, "a") as file:
            file.write(tail)
        self.write([4, 5], resume_step=3)
        self.assertEqual(
            self.path.read_text(), "step,loss,n\n1,0.1,1\n2,0.2,2\n3,0.3,3\n4,0.4,4\n5,0.5,5\n"
        )  # no row lost, none twice

    def test_resuming_before_the_first_checkpoint_starts_afresh(self):
        self.write([1, 2])
        with CsvLog(self.path) as log:
            log.write(1, {"other": 1})
        self.assertEqual(self.path.read_text(), "step,other\n1,1\n")

    def test_errors(self):
        with CsvLog(self.path) as log:
            log.write(2, {"a": 1, "b": 2})
            with self.assertRaisesRegex(MetricsError, r"columns \['a', 'b'\], but the row of step 3 has \['a', 'c'\]"):
                log.write(3, {"a": 1, "c": 2})
            with self.assertRaisesRegex(MetricsError, "already has step 2; cannot append step 2"):
                log.write(2, {"b": 1, "a": 2})
            with self.assertRaisesRegex(MetricsError, r"metric 'a' must be a scalar, got shape \(2,\)"):
                log.write(3, {"a": np.zeros(2), "b": 0})

    @parameterized.parameters(("1,0.1,1", "1,0.1", "line 2"), ("2,0.2", "x,0.2", "line 3"), ("step,", "?,", "line 2"))
    def test_damage_before_the_checkpoint_is_an_error(self, old, new, message):
        self.write([1, 2, 3])
        self.path.write_text(self.path.read_text().replace(old, new))
        with self.assertRaisesRegex(MetricsError, f"{message} is damaged"):
            CsvLog(self.path, resume_step=3)


class EventTest(FolderCase):
    def test_events_and_purge(self):
        for resume_step, steps in ((0, (1, 2, 3)), (2, (3, 4))):  # within one second, by one process
            with EventLog(self.folder, resume_step=resume_step) as log:
                for step in steps:
                    log.write(step, {"loss": jnp.float32(step)}, prefix="meta/")
        first, second = sorted(self.folder.iterdir(), key=lambda path: path.suffix)
        values = [
            [
                (event.step, value.tag, value.simple_value)
                for event in read_events(path)
                for value in event.summary.value
            ]
            for path in (first, second)
        ]
        self.assertEqual(values[0], [(step, "meta/loss", float(step)) for step in (1, 2, 3)])
        self.assertEqual(values[1], [(step, "meta/loss", float(step)) for step in (3, 4)])
        starts = [event for event in read_events(second) if event.HasField("session_log")]
        self.assertEqual([event.step for event in starts], [3])  # hides the first file's step 3 and later


if __name__ == "__main__":
    absltest.main()
