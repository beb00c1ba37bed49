"""The file formats in which rankings are exchanged, with the field names of their own data sets.

    studio        tasks.jsonl, one task a line with all that was said of it; loses nothing
    imagereward   ImageRewardDB (arXiv 2304.05977): [{"id", "prompt", "generations", "ranking"}]
    imagereward_pair  its pairs: parquet of {"prompt", "img_better", "img_worse"}, the pictures inside
    pickapic      Pick-a-Pic (arXiv 2305.01569): parquet, one pair a row, the pictures inside
    hpdv2         HPDv2 (arXiv 2306.09341): [{"human_preference", "prompt", "file_path", "user_hash"}]
    hpdv2_test    its test form: [{"prompt", "image_path", "rank", "raw_annotation"}]
    hpdv3         HPDv3 (arXiv 2508.03789): [{"prompt", "path1" (preferred), "path2", "confidence"}]
    csv, parquet  one picture of a ranking a row, for tables
    folders       folders of pictures, one a prompt: tasks without rankings; only read

Every export is one zip file: the file with the rankings, and the pictures under pictures/ by their SHA-256.
"""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import combinations, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.checks import quoted
from studio.errors import BadRunFile, InvalidOption, StudioError, UnknownName
from studio.rankings.archive import Archive, opened_archive
from studio.rankings.exchange import Imported, PictureRecord, RankingRecord, TaskRecord, add_records, read_records
from studio.rankings.pictures import keep_file, path_of
from studio.rankings.ranking import RATINGS, Ranking
from studio.rankings.tasks import NewGeneration, NewTask

if TYPE_CHECKING:
    from studio.rankings.database import Rankings

__all__ = ["FORMATS", "IMPORTS", "Format", "export_rankings", "import_rankings"]

PICTURES = "pictures/"
NOBODY = "imported"
ROWS_AT_ONCE = 256
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of the menu. loses: what it cannot hold, in a sentence; "" where it holds all.

    write(records, picture, file): writes the table; picture(file name) gives a picture's bytes. read(archive): gives the records of the
    file in it that ends with one of `suffixes`, or of the whole archive where there are none.
    """

    label: str
    file: str
    suffixes: tuple[str, ...]
    loses: str
    write: Callable[[Iterable[TaskRecord], Callable[[str], bytes], Any], None]
    read: Callable[[Archive, str], Iterable[TaskRecord]]
    has_pictures: bool = False


# --- out and in ----------------------------------------------------------------------------------------------

def export_rankings(rankings: "Rankings", format: str, path: Path, collection: str = "") -> int:
    """Write a zip file; gives how many tasks it holds. Memory is bounded however many there are.

    Raises:
        UnknownName: no such format. InvalidOption: one that is only imported. And as rankings.reading does.
    """
    chosen = format_of(format)
    if not chosen.file:
        raise InvalidOption(f"{chosen.label}: that is only imported; choose another format to export rankings.")
    counted, files = [0], set[str]()

    def told() -> Iterator[TaskRecord]:
        for record in read_records(rankings, collection):
            counted[0] += 1
            files.update(picture.file for picture in record.pictures)
            yield record

    def picture(file: str) -> bytes:
        return path_of(rankings.folder, *file.rsplit(".", 1)).read_bytes()

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        with zipped.open(chosen.file, "w", force_zip64=True) as file:
            chosen.write(told(), picture, file)
        for name in [] if chosen.has_pictures else sorted(files):
            zipped.writestr(zipfile.ZipInfo(PICTURES + name), picture(name), zipfile.ZIP_STORED)
    return counted[0]


def import_rankings(rankings: "Rankings", format: str, source: str | Path, collection: str) -> Imported:
    """Read a zip file, a folder or a file of a format, and add all of it or nothing.

    Args:
        collection: that of the tasks whose format names none.
    Raises:
        BadRunFile, BadImage, InvalidOption, UnknownName: what is wrong with it, in a sentence that says where.
    """
    chosen = format_of(format)
    with opened_archive(source) as archive:
        name = archive.find(*chosen.suffixes) if chosen.suffixes else Path(source).name
        found = [new_task(rankings, archive, record, place, collection) for place, record in enumerate(read_all(chosen, archive, name))]
    if not found:
        raise BadRunFile(f"{name} holds no rankings.")
    return add_records(rankings, found)


def format_of(name: str) -> Format:
    """Raises UnknownName."""
    if name not in IMPORTS:
        raise UnknownName.of("format of rankings", name, IMPORTS)
    return IMPORTS[name]


def read_all(chosen: Format, archive: Archive, name: str) -> Iterator[TaskRecord]:
    """The records; what cannot be read is said with the number of the entry. Raises BadRunFile."""
    place = 0
    try:
        for record in chosen.read(archive, name):
            place += 1
            yield record
    except StudioError as error:
        raise BadRunFile(f"{name}, entry {place + 1}: {error}") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OSError, UnicodeError) as error:
        raise BadRunFile(f"{name}, entry {place + 1}, is not of the format {chosen.label}: {type(error).__name__} {quoted(str(error))}.") from error


def new_task(rankings: "Rankings", archive: Archive, record: TaskRecord, place: int, collection: str) -> tuple[NewTask, Sequence[RankingRecord]]:
    try:
        pictures = [
            NewGeneration(
                picture=keep_file(rankings.folder, content_of(archive, one)), model=one.model, seed=one.seed, options=one.options, source_id=one.source_id,
            )
            for one in record.pictures
        ]
        task = NewTask(
            prompt=record.prompt, generations=pictures, collection=record.collection or collection, overlap=max(1, record.overlap), gold=record.gold,
            source_id=record.source_id,
        )
        for answer in record.rankings:
            if len(answer.ranking.ranks) != len(pictures):
                raise InvalidOption(f"there are {len(answer.ranking.ranks)} ranks for {len(pictures)} pictures.")
    except StudioError as error:
        raise type(error)(f"Entry {place + 1} ({str(record.prompt)[:40]!r}): {error}") from error
    return task, record.rankings


def content_of(archive: Archive, picture: PictureRecord) -> bytes:
    return archive.picture(picture.file) if picture.content is None else picture.content


# --- the studio's own ----------------------------------------------------------------------------------------

def write_studio(records: Iterable[TaskRecord], picture: Callable[[str], bytes], file: Any) -> None:
    for record in records:
        content = {**asdict(record), "pictures": [picture_content(one) for one in record.pictures]}
        content["rankings"] = [
            {"annotator": one.annotator, "repeat": one.repeat, "submitted": one.submitted, **one.ranking.content()} for one in record.rankings
        ]
        file.write(json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def picture_content(one: PictureRecord) -> dict[str, Any]:
    return {"file": PICTURES + one.file, "model": one.model, "seed": one.seed, "options": dict(one.options), "source_id": one.source_id}


def read_studio(archive: Archive, name: str) -> Iterator[TaskRecord]:
    for line in archive.table(name).decode("utf-8").splitlines():
        content = json.loads(line)
        pictures = [PictureRecord(**{**one, "options": dict(one.get("options", {}))}) for one in content.pop("pictures")]
        answers = [ranking_record(one) for one in content.pop("rankings", [])]
        yield TaskRecord(pictures=pictures, rankings=answers, **content)


def ranking_record(content: dict[str, Any]) -> RankingRecord:
    about = {name: content.pop(name) for name in ("annotator", "repeat", "submitted") if name in content}
    if about.get("repeat", 0) not in (0, 1):
        raise InvalidOption(f"repeat must be 0 or 1, but it is {quoted(about['repeat'])}.")
    return RankingRecord(ranking=Ranking(**content), **about)


# --- ImageRewardDB -------------------------------------------------------------------------------------------

def write_imagereward(records: Iterable[TaskRecord], picture: Callable[[str], bytes], file: Any) -> None:
    write_list(file, (
        {
            "id": f"{number:06d}-{place:06d}", "prompt": record.prompt,
            "generations": [PICTURES + one.file for one, rank in zip(record.pictures, said.ranking.ranks) if rank is not None],
            "ranking": [rank for rank in said.ranking.ranks if rank is not None],
        }
        for number, record in enumerate(records) for place, said in enumerate(record.rankings)
    ))


def read_imagereward(archive: Archive, name: str) -> Iterator[TaskRecord]:
    seen: set[str] = set()
    voices: dict[tuple[str, ...], int] = {}
    for entry in read_list(archive, name):
        number, files, ranks = str(entry["id"]), list(entry["generations"]), list(entry["ranking"])
        if number in seen:
            raise InvalidOption(f"the id {number[:60]!r} is there twice.")
        if len(files) != len(ranks):
            raise InvalidOption(f"there are {len(ranks)} ranks for {len(files)} generations.")
        seen.add(number)
        # Who ranked is not said: a second ranking of the same pictures is another's.
        same = (str(entry["prompt"]), *sorted(map(str, files)))
        voices[same] = voices.get(same, 0) + 1
        answer = RankingRecord(annotator=NOBODY if voices[same] == 1 else f"{NOBODY} {voices[same]}", ranking=Ranking(ranks=ranks))
        yield TaskRecord(prompt=entry["prompt"], pictures=[PictureRecord(file=file) for file in files], rankings=[answer], source_id=number)


def write_imagereward_pair(records: Iterable[TaskRecord], picture: Callable[[str], bytes], file: Any) -> None:
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    write_parquet(file, pa.schema([("prompt", pa.string()), ("img_better", image), ("img_worse", image)]), (
        {
            "prompt": pair.prompt,
            **{name: {"bytes": picture(one.file), "path": one.file} for name, one in zip(("img_better", "img_worse"), better_first(pair))},
        }
        for pair in pairs_of(records) if pair.better is not None
    ))


def read_imagereward_pair(archive: Archive, name: str) -> Iterator[TaskRecord]:
    voices: dict[tuple[str, ...], int] = {}
    for row in read_parquet(archive, name):
        contents = [bytes(row[side]["bytes"]) for side in ("img_better", "img_worse")]
        # Who said so is not there: a second time is another's.
        same = (str(row["prompt"]), *sorted(sha256(content).hexdigest() for content in contents))
        voices[same] = voices.get(same, 0) + 1
        pictures = [PictureRecord(file="", content=content) for content in contents]
        yield task_of_pair(row["prompt"], pictures, 0, NOBODY if voices[same] == 1 else f"{NOBODY} {voices[same]}")


def better_first(pair: "Pair") -> tuple[PictureRecord, PictureRecord]:
    return pair.pictures if pair.better == 0 else (pair.pictures[1], pair.pictures[0])


# --- pairs ---------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Pair:
    """Two pictures that one annotator ranked. better: 0, 1, or None for a tie."""

    prompt: str
    pictures: tuple[PictureRecord, PictureRecord]
    better: int | None
    said: RankingRecord
    number: str


def pairs_of(records: Iterable[TaskRecord]) -> Iterator[Pair]:
    """Every pair of every ranking, those left out excepted."""
    for task, record in enumerate(records):
        for place, said in enumerate(record.rankings):
            ranked = [(one, rank) for one, rank in zip(record.pictures, said.ranking.ranks) if rank is not None]
            for (one, a), (other, b) in combinations(ranked, 2):
                yield Pair(record.prompt, (one, other), None if a == b else int(b < a), said, f"{task:06d}-{place}")


def task_of_pair(prompt: Any, pictures: Sequence[PictureRecord], better: int | None, annotator: str, source_id: str = "") -> TaskRecord:
    ranks = [1, 1] if better is None else [1 + (better == 1), 1 + (better == 0)]
    answer = RankingRecord(annotator=annotator, ranking=Ranking(ranks=ranks))
    return TaskRecord(prompt=prompt, pictures=pictures, rankings=[answer], source_id=source_id)


def write_pickapic(records: Iterable[TaskRecord], picture: Callable[[str], bytes], file: Any) -> None:
    import pyarrow as pa

    text, number, content = pa.string(), pa.float64(), pa.binary()
    schema = pa.schema([
        ("are_different", pa.bool_()), ("best_image_uid", text), ("caption", text), ("created_at", pa.timestamp("us")), ("has_label", pa.bool_()),
        ("image_0_uid", text), ("image_0_url", text), ("image_1_uid", text), ("image_1_url", text), ("jpg_0", content), ("jpg_1", content),
        ("label_0", number), ("label_1", number), ("model_0", text), ("model_1", text), ("ranking_id", pa.int64()), ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
    ])
    users: dict[str, int] = {}
    write_parquet(file, schema, (
        pickapic_row(pair, place, users.setdefault(pair.said.annotator, len(users)), picture) for place, pair in enumerate(pairs_of(records))
    ))


def pickapic_row(pair: Pair, place: int, user: int, picture: Callable[[str], bytes]) -> dict[str, Any]:
    names = [one.file.rsplit(".", 1)[0] for one in pair.pictures]
    labels = (0.5, 0.5) if pair.better is None else (float(pair.better == 0), float(pair.better == 1))
    row: dict[str, Any] = {
        "are_different": True, "best_image_uid": "tie" if pair.better is None else names[pair.better], "caption": pair.prompt,
        "created_at": int(pair.said.submitted * 1e6), "has_label": True, "ranking_id": place, "user_id": user, "num_example_per_prompt": 1,
    }
    for side, one in enumerate(pair.pictures):
        row |= {
            f"image_{side}_uid": names[side], f"image_{side}_url": "", f"jpg_{side}": picture(one.file), f"label_{side}": labels[side],
            f"model_{side}": one.model,
        }
    return row


def read_pickapic(archive: Archive, name: str) -> Iterator[TaskRecord]:
    for row in read_parquet(archive, name):
        if row.get("has_label") is False:
            continue
        labels = (float(row["label_0"]), float(row["label_1"]))
        pictures = [
            PictureRecord(file="", model=str(row[f"model_{side}"] or ""), source_id=str(row[f"image_{side}_uid"]), content=bytes(row[f"jpg_{side}"]))
            for side in (0, 1)
        ]
        better = None if labels[0] == labels[1] else int(labels[1] > labels[0])
        yield task_of_pair(row["caption"], pictures, better, f"user {row['user_id']}", f"pickapic-{row['ranking_id']}")


def write_hpdv2(records: Iterable[TaskRecord], picture: Callable[[str], bytes], file: Any) -> None:
    write_list(file, (
        {
            "human_preference": [int(pair.better == 0), int(pair.better == 1)], "prompt": pair.prompt,
            "file_path": [PICTURES + one.file for one in pair.pictures], "user_hash": pair.said.annotator,
        }
        for pair in pairs_of(records) if pair.better is not None
    ))


def read_hpdv2(archive: Archive, name: str) -> Iterator[TaskRecord]:
    for entry in read_list(archive, name):
        if "image_path" in entry:
            yield hpdv2_test(entry)
            continue
        preference, files = list(entry["human_preference"]), list(entry["file_path"])
        if sorted(preference) != [0, 1] or len(files) != 2:
            raise InvalidOption(f"human_preference must be [1, 0] or [0, 1] for two files, but it is {quoted(preference)} for {len(files)}.")
        yield task_of_pair(entry["prompt"], [PictureRecord(file=file) for file in files], preference.index(1), str(entry.get("user_hash", NOBODY))[:80])


def write_hpdv2_test(records: Iterable[TaskRecord], picture: Callable[[str], bytes], file: Any) -> None:
    write_list(file, (hpdv2_entry(record) for record in records if whole_rankings(record)))


def whole_rankings(record: TaskRecord) -> list[RankingRecord]:
    """Those that leave no picture out, the first of each annotator."""
    return [said for said in record.rankings if None not in said.ranking.ranks and not said.repeat]


def hpdv2_entry(record: TaskRecord) -> dict[str, Any]:
    """A task in the test form: the annotators' ranks, and the order of their means."""
    said = whole_rankings(record)
    means = [sum(one.ranking.ranks[place] or 0 for one in said) / len(said) for place in range(len(record.pictures))]
    return {
        "prompt": record.prompt, "image_path": [PICTURES + one.file for one in record.pictures],
        "rank": [1 + sum(other < mean for other in means) for mean in means],
        "raw_annotation": [{"user_hash": one.annotator, "rank": list(one.ranking.ranks)} for one in said],
    }


def hpdv2_test(entry: Mapping[str, Any]) -> TaskRecord:
    """An entry of the test form: image_path and rank, the lowest for the best, from 0 or from 1; each annotator's own where they are named."""
    files, own = list(entry["image_path"]), entry.get("raw_annotation")
    said = [(str(one["user_hash"])[:80], one["rank"]) for one in own or () if isinstance(one, dict) and {"user_hash", "rank"} <= one.keys()]
    answers = [
        RankingRecord(annotator=name, ranking=Ranking(ranks=[rank + 1 for rank in ranks] if ranks and min(ranks) == 0 else list(ranks)))
        for name, ranks in said or [(NOBODY, list(entry["rank"]))]
    ]
    return TaskRecord(prompt=entry["prompt"], pictures=[PictureRecord(file=file) for file in files], rankings=answers)


def write_hpdv3(records: Iterable[TaskRecord], picture: Callable[[str], bytes], file: Any) -> None:
    write_list(file, (
        {
            "prompt": pair.prompt, "path1": PICTURES + pair.pictures[pair.better].file, "path2": PICTURES + pair.pictures[1 - pair.better].file,
            "confidence": 1.0,
        }
        for pair in pairs_of(records) if pair.better is not None
    ))


def read_hpdv3(archive: Archive, name: str) -> Iterator[TaskRecord]:
    for entry in read_list(archive, name):
        yield task_of_pair(entry["prompt"], [PictureRecord(file=entry["path1"]), PictureRecord(file=entry["path2"])], 0, NOBODY)


# --- tables --------------------------------------------------------------------------------------------------

COLUMNS = (
    "task", "collection", "prompt", "annotator", "repeat", "submitted", "seconds", "picture", "model", "seed", "rank", *RATINGS, "flags", "note",
)


def write_csv(records: Iterable[TaskRecord], picture: Callable[[str], bytes], file: Any) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(table_rows(records))
    text.flush()
    text.detach()


def table_rows(records: Iterable[TaskRecord]) -> Iterator[dict[str, Any]]:
    """A row for every picture of every ranking."""
    for task, record in enumerate(records):
        for said in record.rankings:
            yield from (table_row(task, record, said, place, one) for place, one in enumerate(record.pictures))


def table_row(task: int, record: TaskRecord, said: RankingRecord, place: int, one: PictureRecord) -> dict[str, Any]:
    ranking = said.ranking
    return {
        "task": task, "collection": record.collection, "prompt": plain_text(record.prompt), "annotator": plain_text(said.annotator), "repeat": said.repeat,
        "submitted": said.submitted, "seconds": ranking.seconds, "picture": PICTURES + one.file, "model": one.model,
        "seed": "" if one.seed is None else one.seed, "rank": "" if ranking.ranks[place] is None else ranking.ranks[place],
        **(ranking.ratings[place] if ranking.ratings else {}), "flags": " ".join(ranking.flags[place]) if ranking.flags else "",
        "note": plain_text(ranking.note),
    }


def plain_text(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def read_csv(archive: Archive, name: str) -> Iterator[TaskRecord]:
    yield from of_rows(csv.DictReader(io.StringIO(archive.table(name).decode("utf-8-sig"), newline="")))


def of_rows(rows: Iterable[dict[str, str]]) -> Iterator[TaskRecord]:
    """Rows of one ranking stand together: same task, annotator and repeat."""
    group: list[dict[str, str]] = []
    for row in rows:
        if group and any(group[0][key] != row[key] for key in ("task", "annotator", "repeat")):
            yield record_of_rows(group)
            group = []
        group.append(row)
    if group:
        yield record_of_rows(group)


def record_of_rows(rows: Sequence[Mapping[str, str]]) -> TaskRecord:
    first = rows[0]
    ratings = [{name: int(row[name]) for name in RATINGS if row.get(name)} for row in rows]
    flags = [(row.get("flags") or "").split() for row in rows]
    ranking = Ranking(
        ranks=[int(row["rank"]) if row["rank"] else None for row in rows], ratings=ratings if any(ratings) else (), flags=flags if any(flags) else (),
        note=unquoted(first.get("note") or ""), seconds=float(first.get("seconds") or 0),
    )
    answer = RankingRecord(
        annotator=unquoted(first["annotator"]), ranking=ranking, repeat=int(first.get("repeat") or 0), submitted=float(first.get("submitted") or 0),
    )
    pictures = [PictureRecord(file=row["picture"], model=row.get("model") or "", seed=int(row["seed"]) if row.get("seed") else None) for row in rows]
    return TaskRecord(prompt=unquoted(first["prompt"]), pictures=pictures, rankings=[answer], collection=first.get("collection") or "")


def unquoted(text: str) -> str:
    return text[1:] if text[:1] == "'" and plain_text(text[1:]) == text else text


# --- parquet, folders -----------------------------------------------------------------------------------------

def write_parquet(file: Any, schema: Any, rows: Iterable[dict[str, Any]]) -> None:
    """Rows, a few hundred of them in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = iter(rows)
    with pq.ParquetWriter(file, schema) as writer:
        writer.write_table(pa.Table.from_pylist(list(islice(rows, ROWS_AT_ONCE)), schema))
        while some := list(islice(rows, ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(some, schema))


def read_parquet(archive: Archive, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file. Raises BadRunFile."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(archive.table(name)))
        for batch in file.iter_batches(ROWS_AT_ONCE):
            yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise BadRunFile(f"it is no parquet file that can be read ({str(error)[:100]}).") from error


def write_table(records: Iterable[TaskRecord], picture: Callable[[str], bytes], file: Any) -> None:
    import pyarrow as pa

    rows = ({name: str(value) for name, value in row.items()} for row in table_rows(records))
    write_parquet(file, pa.schema([(column, pa.string()) for column in COLUMNS]), rows)


def read_table(archive: Archive, name: str) -> Iterator[TaskRecord]:
    yield from of_rows({key: value or "" for key, value in row.items()} for row in read_parquet(archive, name))


def read_folders(archive: Archive, name: str) -> Iterator[TaskRecord]:
    """One task a folder of 2 to 9 pictures; its prompt stands in a prompt.txt in it, else it is the folder's name."""
    folders: dict[str, list[str]] = {}
    for file in sorted(archive.names()):
        folder, _, last = file.rpartition("/")
        if last.lower().endswith(PICTURE_SUFFIXES) and "__MACOSX" not in folder:
            folders.setdefault(folder, []).append(file)
    known = set(archive.names())
    for folder, files in folders.items():
        words = f"{folder}/prompt.txt" if folder else "prompt.txt"
        prompt = archive.table(words).decode("utf-8").strip() if words in known else folder.rpartition("/")[2].replace("_", " ")
        if not prompt:
            raise InvalidOption("pictures that lie in no folder need a prompt.txt beside them.")
        yield TaskRecord(prompt=prompt, pictures=[PictureRecord(file=file, model=Path(file).stem) for file in files])


# --- JSON ----------------------------------------------------------------------------------------------------

def write_list(file: Any, entries: Iterable[Mapping[str, Any]]) -> None:
    """A JSON list, one entry a line, none of it kept."""
    file.write(b"[")
    for place, entry in enumerate(entries):
        file.write((b",\n" if place else b"\n") + json.dumps(entry, ensure_ascii=False, allow_nan=False).encode())
    file.write(b"\n]\n")


def read_list(archive: Archive, name: str) -> Iterator[Mapping[str, Any]]:
    """The entries of a JSON list. Raises InvalidOption for one that is no object."""
    entries = json.loads(archive.table(name))
    if not isinstance(entries, list):
        raise InvalidOption(f"the file must hold a list, but it holds {quoted(entries)}.")
    for entry in entries:
        if not isinstance(entry, dict):
            raise InvalidOption(f"each entry must be an object with names and values, but this is {quoted(entry)}.")
        yield entry


FORMATS: dict[str, Format] = {
    "studio": Format(label="Everything (this studio's own)", file="tasks.jsonl", suffixes=(".jsonl",), loses="", write=write_studio, read=read_studio),
    "imagereward": Format(
        label="ImageRewardDB", file="rankings.json", suffixes=(".json",), write=write_imagereward, read=read_imagereward,
        loses="It holds ranks, ties included; pictures that were left out, annotators, ratings, flags, models and seeds are not in it.",
    ),
    "imagereward_pair": Format(
        label="ImageRewardDB, pairs", file="pairs.parquet", suffixes=(".parquet",), write=write_imagereward_pair, read=read_imagereward_pair, has_pictures=True,
        loses="It holds pairs; ties, which pairs were one ranking, annotators, ratings, flags, models and seeds are not in it.",
    ),
    "pickapic": Format(
        label="Pick-a-Pic", file="pairs.parquet", suffixes=(".parquet",), write=write_pickapic, read=read_pickapic, has_pictures=True,
        loses="It holds pairs, ties included, with models and numbers of annotators; which pairs were one ranking, ratings, flags and seeds are not in it.",
    ),
    "hpdv2": Format(
        label="HPDv2", file="train.json", suffixes=(".json",), write=write_hpdv2, read=read_hpdv2,
        loses="It holds pairs with annotators; ties, which pairs were one ranking, ratings, flags, models and seeds are not in it.",
    ),
    "hpdv2_test": Format(
        label="HPDv2, test form", file="test.json", suffixes=(".json",), write=write_hpdv2_test, read=read_hpdv2,
        loses="It holds whole rankings with annotators, ties included; rankings that leave pictures out, second ones, ratings, flags and models are not in it.",
    ),
    "hpdv3": Format(
        label="HPDv3", file="train.json", suffixes=(".json",), write=write_hpdv3, read=read_hpdv3,
        loses="It holds pairs; ties, annotators, ratings, flags, models and seeds are not in it.",
    ),
    "csv": Format(
        label="CSV", file="rankings.csv", suffixes=(".csv",), write=write_csv, read=read_csv,
        loses="It holds every ranking; tasks that nobody ranked, and the options of pictures, are not in it.",
    ),
    "parquet": Format(
        label="Parquet (a table)", file="rankings.parquet", suffixes=(".parquet",), write=write_table, read=read_table,
        loses="It holds every ranking; tasks that nobody ranked, and the options of pictures, are not in it.",
    ),
}
# What can be imported: those, and pictures that nobody ranked yet.
IMPORTS: dict[str, Format] = {
    **FORMATS,
    "folders": Format(
        label="Folders of pictures (import)", file="", suffixes=(), write=lambda records, picture, file: None, read=read_folders,
        loses="Each folder of 2 to 9 pictures becomes a task; its prompt is the folder's name, or stands in a prompt.txt in it. It holds no rankings.",
    ),
}
