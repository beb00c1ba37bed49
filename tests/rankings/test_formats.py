"""Rankings out of one database and into another: what each format holds comes back, what is damaged is refused whole."""

import io
import json
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from studio.errors import StudioError
from studio.rankings import NewGeneration, NewTask, Ranking, add_tasks, open_rankings, open_tasks, submit
from studio.rankings.exchange import read_records
from studio.rankings.formats import FORMATS, export_rankings, import_rankings
from studio.rankings.pictures import keep_drawn, keep_file

RANKINGS = [
    Ranking(ranks=[2, 1, 2, None], ratings=[{"alignment": 7}, {}, {"fidelity": 1, "harmlessness": 4}, {}], flags=[[], ["broken", "bad"], [], []],
            note="=1+1, \"quoted\"\nand a line", seconds=4.5),
    Ranking(ranks=[1, 4, 4, 9], seconds=1.0), Ranking(ranks=[1, 1, 1, 1]),
]


@pytest.fixture
def filled(rankings):
    """Three tasks, two of them ranked by two annotators with ties, gaps and pictures left out; one that nobody ranked."""
    for number in range(3):
        pictures = [keep_drawn(rankings.folder, Image.new("RGB", (8, 8), (number, place, 3))) for place in range(4)]
        add_tasks(rankings, [NewTask(
            prompt=f"a ☂ {number}, \"so\"", collection="mine", overlap=2, gold=[1, 2, 3, 4] if number == 0 else None, source_id=f"s{number}",
            generations=[NewGeneration(picture=picture, model=f"m{place}", seed=place, options={"num_steps": 3}) for place, picture in enumerate(pictures)],
        )])
    for name in ("Ada", "@Bob"):
        for ranking in RANKINGS[:2]:
            submit(rankings, name, open_tasks(rankings, name, 1)[0].assignment, ranking)
    return rankings


@pytest.fixture
def other(tmp_path):
    opened = open_rankings(tmp_path / "other")
    yield opened
    opened.close()


def moved(rankings, other, format, tmp_path):
    path = tmp_path / "export.zip"
    assert export_rankings(rankings, format, path) == 3
    imported = import_rankings(other, format, path, "mine")
    return imported, list(read_records(other))


def by_prompt(records):
    return {record.prompt: record for record in records}


def ranks_of(record):
    """What each annotator said, by the pictures."""
    return sorted(tuple(sorted((one.file, rank) for one, rank in zip(record.pictures, said.ranking.ranks) if rank)) for said in record.rankings)


def test_the_studios_own_format_loses_nothing(filled, other, tmp_path):
    imported, records = moved(filled, other, "studio", tmp_path)
    assert (imported.tasks, imported.rankings) == (3, 4)
    wanted = [json.loads(json.dumps(record, default=vars)) for record in read_records(filled)]
    assert [json.loads(json.dumps(record, default=vars)) for record in records] == wanted
    assert import_rankings(other, "studio", tmp_path / "export.zip", "mine") == type(imported)(0, 0)


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_tables_hold_every_ranking_whole(filled, other, tmp_path, format):
    imported, records = moved(filled, other, format, tmp_path)
    assert imported.rankings == 4
    for prompt, record in by_prompt(records).items():
        before = by_prompt(read_records(filled))[prompt]
        assert [(one.file, one.model, one.seed) for one in record.pictures] == [(one.file, one.model, one.seed) for one in before.pictures]
        assert [contents(said) for said in record.rankings] == [contents(said) for said in before.rankings]


def contents(said):
    return said.annotator, said.repeat, said.submitted, said.ranking.content()


def test_imagereward_has_the_field_names_of_its_release_and_keeps_ranks_and_ties(filled, other, tmp_path):
    _, records = moved(filled, other, "imagereward", tmp_path)
    with zipfile.ZipFile(tmp_path / "export.zip") as zipped:
        entries = json.loads(zipped.read("rankings.json"))
        assert set(entries[0]) == {"id", "prompt", "generations", "ranking"} and len(entries) == 4
        assert all(name in zipped.namelist() for entry in entries for name in entry["generations"])
    before = [ranks for record in read_records(filled) for ranks in ranks_of(record)]
    assert sorted(ranks for record in records for ranks in ranks_of(record)) == sorted(before)


def test_pickapic_has_its_columns_and_keeps_every_pair_and_tie(filled, other, tmp_path):
    _, records = moved(filled, other, "pickapic", tmp_path)
    with zipfile.ZipFile(tmp_path / "export.zip") as zipped:
        table = pq.read_table(io.BytesIO(zipped.read("pairs.parquet"))).to_pylist()
    assert {"are_different", "best_image_uid", "caption", "image_0_uid", "jpg_0", "label_0", "model_0", "ranking_id", "user_id"} <= set(table[0])
    # Two annotators: three pairs of three ranked pictures, six of four.
    assert len(table) == 2 * (3 + 6) and sum(row["best_image_uid"] == "tie" for row in table) == 2 * 2
    assert all(row["label_0"] + row["label_1"] == 1 for row in table)
    assert sum(len(record.rankings) for record in records) == 18


@pytest.mark.parametrize(("format", "file", "names"), [
    ("hpdv2", "train.json", {"human_preference", "prompt", "file_path", "user_hash"}), ("hpdv3", "train.json", {"prompt", "path1", "path2", "confidence"}),
])
def test_pairs_keep_who_won(filled, other, tmp_path, format, file, names):
    _, records = moved(filled, other, format, tmp_path)
    with zipfile.ZipFile(tmp_path / "export.zip") as zipped:
        assert set(json.loads(zipped.read(file))[0]) == names

    def winners(records):
        return {
            (record.prompt, a.file, b.file) for record in records for said in record.rankings for a, x in zip(record.pictures, said.ranking.ranks)
            for b, y in zip(record.pictures, said.ranking.ranks) if x and y and x < y
        }
    assert winners(records) == winners(read_records(filled))


def test_the_pair_form_of_imagereward_holds_both_pictures_of_every_strict_pair(filled, other, tmp_path):
    _, records = moved(filled, other, "imagereward_pair", tmp_path)
    with zipfile.ZipFile(tmp_path / "export.zip") as zipped:
        rows = pq.read_table(io.BytesIO(zipped.read("pairs.parquet"))).to_pylist()
    assert set(rows[0]) == {"prompt", "img_better", "img_worse"} and len(rows) == 2 * (2 + 5)
    assert all(said.ranking.ranks == [1, 2] for record in records for said in record.rankings if said.annotator == "imported")
    assert sum(len(record.rankings) for record in records) == 14


def test_the_test_form_of_hpdv2_keeps_whole_rankings_of_each_annotator(filled, other, tmp_path):
    path = tmp_path / "export.zip"
    export_rankings(filled, "hpdv2_test", path)
    with zipfile.ZipFile(path) as zipped:
        (entry,) = json.loads(zipped.read("test.json"))
    assert set(entry) == {"prompt", "image_path", "rank", "raw_annotation"} and entry["rank"] == [1, 2, 2, 4]
    import_rankings(other, "hpdv2_test", path, "mine")
    (record,) = read_records(other)
    assert {said.annotator: said.ranking.ranks for said in record.rankings} == {"Ada": [1, 4, 4, 9], "@Bob": [1, 4, 4, 9]}


def test_folders_of_pictures_become_tasks_with_their_names_or_prompts(other, tmp_path):
    for folder, colours in (("a_red_heart", (1, 2)), ("b", (3, 4, 5))):
        (tmp_path / "in" / folder).mkdir(parents=True)
        for colour in colours:
            Image.new("RGB", (8, 8), (colour, 0, 0)).save(tmp_path / "in" / folder / f"{colour}.png")
    (tmp_path / "in" / "b" / "prompt.txt").write_text("a blue star\n")
    assert import_rankings(other, "folders", tmp_path / "in", "mine").tasks == 2
    assert {record.prompt: len(record.pictures) for record in read_records(other)} == {"a red heart": 2, "a blue star": 3}
    with pytest.raises(StudioError, match="only imported"):
        export_rankings(other, "folders", tmp_path / "no.zip")
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "in" / "alone.png")
    with pytest.raises(StudioError, match="prompt.txt"):
        import_rankings(other, "folders", tmp_path / "in", "mine")


def test_what_a_format_cannot_hold_is_said():
    assert [name for name, format in FORMATS.items() if not format.loses] == ["studio"]


def test_the_test_form_of_hpdv2_is_read(other, tmp_path):
    folder = folder_with(tmp_path, [{"prompt": "p", "image_path": ["a.png", "b.png", "c.png"], "rank": [2, 0, 1], "raw_annotation": []}], "test.json")
    import_rankings(other, "hpdv2", folder, "mine")
    assert next(iter(read_records(other))).rankings[0].ranking.ranks == [3, 1, 2]


# --- bad input -----------------------------------------------------------------------------------------------

def folder_with(tmp_path, entries, name="rankings.json", pictures=("a.png", "b.png", "c.png")):
    folder = tmp_path / "import"
    folder.mkdir()
    (folder / name).write_text(entries if isinstance(entries, str) else json.dumps(entries))
    for number, picture in enumerate(pictures):
        Image.new("RGB", (8, 8), (number, 9, 9)).save(folder / picture)
    return folder


GOOD = {"id": "1", "prompt": "p", "generations": ["a.png", "b.png"], "ranking": [1, 2]}


@pytest.mark.parametrize(("entry", "word"), [
    ({"ranking": [1]}, "1 ranks for 2"), ({"ranking": [0, 1]}, "0"), ({"ranking": [1, float("nan")]}, "rank"), ({"id": "0"}, "twice"),
    ({"generations": ["a.png", "a.png"]}, "same picture twice"), ({"generations": ["a.png", "missing.png"]}, "missing"),
    ({"generations": ["a.png", "/etc/passwd"]}, "absolute"), ({"generations": ["a.png", "../b.png"]}, "climb"), ({"generations": "a.png"}, ""),
    ({"prompt": None}, "prompt"), ({"ranking": ["1", "2"]}, "rank"), ({"generations": ["a.png", "text.png"]}, "picture"), ({"generations": []}, ""),
])
def test_one_bad_entry_refuses_the_whole_file_and_says_which(other, tmp_path, entry, word):
    folder = folder_with(tmp_path, [{**GOOD, "id": "0"}, {**GOOD, **entry}])
    (folder / "text.png").write_text("no picture at all")
    with pytest.raises(StudioError, match="(?i)entry 2") as refused:
        import_rankings(other, "imagereward", folder, "mine")
    assert word in str(refused.value) and list(read_records(other)) == []


@pytest.mark.parametrize("text", ["", "[", "{}", "[1]", "null", "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "[]"])
@pytest.mark.parametrize("format", ["imagereward", "hpdv2", "hpdv3"])
def test_a_file_that_is_none_of_the_kind_is_refused_in_a_sentence(other, tmp_path, format, text):
    with pytest.raises(StudioError):
        import_rankings(other, format, folder_with(tmp_path, text), "mine")


# What an export holds is the same whatever database it is of, as the tests above show; and what it comes into is SQLite in both cases.
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("format", FORMATS)
def test_an_export_that_was_damaged_anywhere_is_imported_whole_or_not_at_all(with_tasks, other, tmp_path, format):
    rankings = with_tasks(2)
    for _ in range(2):
        submit(rankings, "Ada", open_tasks(rankings, "Ada", 1)[0].assignment, RANKINGS[1])
    path = tmp_path / "export.zip"
    export_rankings(rankings, format, path)
    whole = path.read_bytes()
    for cut in range(0, len(whole), max(1, len(whole) // 25)):
        path.write_bytes(whole[:cut] + bytes([whole[cut] ^ 0x5A]) + whole[cut + 1:])
        before = len(list(read_records(other)))
        try:
            import_rankings(other, format, path, "mine")
        except StudioError:
            assert len(list(read_records(other))) == before


def test_a_zip_that_would_unpack_to_far_too_much_is_refused_before_it_is_unpacked(other, tmp_path, monkeypatch):
    monkeypatch.setattr("studio.rankings.archive.MAX_TOTAL", 10**6)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("rankings.json", b"[" + b" " * 10**7 + b"]")
    with pytest.raises(StudioError, match="at most"):
        import_rankings(other, "imagereward", tmp_path / "bomb.zip", "mine")


def test_a_link_in_a_folder_leads_nowhere(other, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    folder = folder_with(tmp_path, [{**GOOD, "generations": ["a.png", "link.png"]}])
    (folder / "link.png").symlink_to(secret)
    with pytest.raises(StudioError, match="missing"):
        import_rankings(other, "imagereward", folder, "mine")


def test_pictures_keep_their_bytes_where_a_browser_shows_them(other, tmp_path):
    for number, format in enumerate(("PNG", "JPEG", "WEBP", "BMP")):
        path = tmp_path / f"picture.{format.lower()}"
        Image.new("RGB", (9, 9), (number, 5, 5)).save(path, format)
        row = keep_file(other.folder, path)
        kept = other.folder / "pictures" / row.sha256[:2] / f"{row.sha256}.{row.suffix}"
        assert (kept.read_bytes() == path.read_bytes()) == (format != "BMP") and Path(kept).suffix in (".png", ".jpg", ".webp")
