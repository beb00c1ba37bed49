"""The Rank tab: pictures of a prompt put in order by hand, tasks made from any model, and how well annotators agree."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import gradio as gr

from studio.errors import InvalidOption, StudioError
from studio.models.device import Waiting
from studio.options import SampleOptions
from studio.rankings import FLAGS, RATINGS, OpenTask, Ranking, Submitted, collections, open_tasks, progress, save_draft, skip, submit, undo
from studio.rankings.agreement import agreement, read_table, strengths, win_rates
from studio.rankings.assigning import CHOICES, Sureness, sureness
from studio.rankings.example import add_example
from studio.rankings.flagged import Flagged, flagged
from studio.rankings.formats import IMPORTS, export_rankings, import_rankings
from studio.rankings.hub import pull_rankings, push_rankings
from studio.rankings.making import TaskMade, TaskOptions, add_drawn, toybox_prompts
from studio.rankings.pictures import picture_path
from studio.scratch import passing_folder
from tabs.parts.api import RankingApi
from tabs.parts.arguments import event_value
from tabs.parts.keeping import DOWNLOAD
from tabs.parts.scorers import last_run
from tabs.parts.stage import CHEAP, PRIVATE, drawn_by, menu_of, said_in_a_sentence, to_stage, unchecked
from tabs.parts.turns import waiting_line
from tabs.parts.visitors import asker_of

__all__ = ["create_tab", "board_value", "annotator_name", "require_own", "Pictures"]

AHEAD = 3
ALL = ("All", "")
KEEPS_ALL = "It holds everything; what was exported can be imported again without a loss."
INVITATION = "Every task here is ranked. Make further ones on the left, or choose another collection."
Pictures = Callable[[str, str], str]


# --- what the page is shown ----------------------------------------------------------------------------------

def board_value(studio: RankingApi, pictures: Pictures, name: str, collection: str, choose: str = "order", **more: Any) -> str:
    """JSON text for Studio.rank: the annotator's open tasks, how far they are, and what is said to what they did.

    Args:
        pictures: the address of a picture from its name and suffix.
        choose: which task comes next, of studio.rankings.assigning.CHOICES.
        more: acknowledged, feedback, kept, error, failed: see assets/ui/rank.js.
    """
    tasks = open_tasks(studio.rankings, name, AHEAD, collection, choose)
    if choose == "least_sure" and tasks:
        more["sure"] = sure_line(sureness(studio.rankings, tasks[0].assignment, collection))
    return to_stage({
        "annotator": name, "collection": collection, "tasks": [task_value(task, pictures) for task in tasks],
        "progress": asdict(progress(studio.rankings, name, collection)), "flags": FLAGS, "ratings": RATINGS, "invitation": INVITATION, **more,
    })


def sure_line(sure: Sureness) -> str:
    """What is known of the models, and what the open task saves."""
    known = f"models known to ±{sure.deviation:.2f}"
    return known if sure.saves is None else f"{known}, this task says {1 + sure.saves:.1f} times what one at random does"


def task_value(task: OpenTask, pictures: Pictures) -> dict[str, Any]:
    shown = [{"position": one.position, "src": pictures(one.sha256, one.suffix), "width": one.width, "height": one.height} for one in task.pictures]
    return {"assignment": task.assignment, "prompt": task.prompt, "collection": task.collection, "repeat": task.repeat, "pictures": shown, "draft": task.draft}


def agreement_value(studio: RankingApi, collection: str) -> str:
    """JSON text for Studio.agreement."""
    table = read_table(studio.rankings, collection)
    models, rates = win_rates(table)
    return to_stage({
        **asdict(agreement(table)), "strengths": [asdict(one) for one in strengths(table)],
        "matrix": {"models": models, "rates": [[round(rate, 3) if rate == rate else None for rate in row] for row in rates.tolist()]},
    })


# --- what annotators do --------------------------------------------------------------------------------------

def on_submit(studio: RankingApi, name: str, event: gr.EventData) -> dict[str, Any]:
    said = event_value(event, assignment=int, request=str, ranks=list, ratings=list, flags=list, seconds=float)
    ranking = Ranking(**{part: said[part] for part in ("ranks", "ratings", "flags", "seconds")})
    done: Submitted = submit(studio.rankings, name, said["assignment"], ranking, said["request"])
    return {"acknowledged": done.assignment, "feedback": done.gold}


def on_skip(studio: RankingApi, name: str, event: gr.EventData) -> dict[str, Any]:
    said = event_value(event, assignment=int, request=str, reason=str)
    skip(studio.rankings, name, said["assignment"], said["reason"], said["request"])
    return {"acknowledged": said["assignment"]}


def on_undo(studio: RankingApi, name: str, event: gr.EventData) -> dict[str, Any]:
    task = undo(studio.rankings, name, event_value(event, collection=str)["collection"])
    if task is None:
        raise InvalidOption("There is nothing to take back.")
    return {"reopened": task.assignment}


def on_draft(studio: RankingApi, name: str, event: gr.EventData) -> dict[str, Any]:
    said = event_value(event, assignment=int, draft=dict, request=str)
    save_draft(studio.rankings, name, said["assignment"], said["draft"])
    return {"kept": said["request"]}


ACTIONS: dict[str, Callable[[RankingApi, str, gr.EventData], dict[str, Any]]] = {
    "submit": on_submit, "skip": on_skip, "undo": on_undo, "draft": on_draft, "next": lambda studio, name, event: {},
}


def acted(studio: RankingApi, name: str, event: gr.EventData) -> dict[str, Any]:
    """Do what the page asks; what is refused is told on the board, so that nothing that was ranked is lost."""
    said = event_value(event, do=str, assignment=int | None)
    if said["do"] not in ACTIONS:
        raise InvalidOption(f"The board can {', '.join(ACTIONS)}, but {said['do'][:40]!r} was asked.")
    try:
        return {"did": said["do"], **ACTIONS[said["do"]](studio, name, event)}
    except StudioError as error:
        return {"did": said["do"], "error": str(error), "failed": said["assignment"]}


# --- the tab -------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Maker:
    """What makes tasks."""

    shown: gr.Accordion
    prompts: gr.Textbox
    suggest: gr.Button
    models: gr.Dropdown
    pictures: gr.Slider
    steps: gr.Number
    guidance: gr.Slider
    seed: gr.Number
    overlap: gr.Number
    collection: gr.Textbox
    drawn: gr.Button
    make: gr.Button
    stop: gr.Button
    status: gr.HTML

    @property
    def asked(self) -> list[Any]:
        return [self.prompts, self.models, self.pictures, self.steps, self.guidance, self.seed, self.overlap, self.collection]


@dataclass(frozen=True, kw_only=True)
class Mover:
    """What writes rankings to a file, and reads them from one."""

    format: gr.Dropdown
    loses: gr.HTML
    export: gr.Button
    exported: gr.File
    opened: gr.UploadButton
    dataset: gr.Textbox
    token: gr.Textbox
    push: gr.Button
    pull: gr.Button
    status: gr.HTML

# Who ranked last in this browser, and what: who comes back, or loads the page again, goes on there. The scripts may come after the page.
REMEMBERED = """async (...given) => {
  while (!window.Studio?.rankedAs) await new Promise((next) => setTimeout(next, 20));
  return window.Studio.rankedAs(...given);
}"""


def create_tab(studio: RankingApi) -> None:
    """The components, handlers and wiring of the tab.

    Args:
        studio: keeps the rankings, and draws the pictures of new tasks.
    """
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            name = gr.Textbox("me", label="Who ranks", max_lines=1, elem_id="rank-name", info="Each annotator has an order of pictures of their own.")
            collection = unchecked(gr.Dropdown([ALL], value="", label="Collection", elem_id="rank-collection"))
            choose = unchecked(gr.Dropdown(
                [(label, key) for key, label in CHOICES.items()], value="order", label="Next task", elem_id="rank-choose",
                info="Least sure: the one that says most of how the models compare.",
            ))
            maker = create_maker(studio)
            mover = create_mover()
        with gr.Column(elem_classes="ds-stage-column"):
            board = drawn_by("rank", '<div class="ds-stage ds-rank"></div>', elem_id="rank-board")
            with gr.Accordion("Agreement", open=False, elem_id="rank-agreement") as shown:
                agreed = drawn_by("agreement", '<div class="ds-stage ds-agreement"></div>', elem_id="rank-agreed")
            create_flagged(studio, collection)
    wire_board(studio, board, name, collection, choose)
    wire_maker(studio, maker, collection)
    wire_mover(studio, mover, collection)

    def on_agreement(chosen: str) -> str:
        with said_in_a_sentence():
            return agreement_value(studio, chosen)

    gr.on([shown.expand, collection.input], on_agreement, collection, agreed, **PRIVATE, concurrency_id="rank")


def create_flagged(studio: RankingApi, collection: gr.Dropdown) -> None:
    """The pictures that were flagged, by flag."""
    with gr.Accordion("Flagged pictures", open=False, elem_id="rank-flagged") as shown:
        flag = unchecked(gr.Dropdown([("Any flag", ""), *((label, key) for key, label in FLAGS.items())], value="", label="Flag", elem_id="rank-flag"))
        gallery = gr.Gallery(label="Flagged", columns=6, height="auto", object_fit="contain", interactive=False, elem_id="rank-flagged-pictures")
        words = gr.HTML(elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)

    def on_show(flag: str, chosen: str) -> dict[Any, Any]:
        with said_in_a_sentence():
            found = flagged(studio.rankings, flag or "", chosen or "")
            pictures = [(str(picture_path(studio.rankings.folder, one.sha256, one.suffix)), flag_line(one)) for one in found]
        return {gallery: pictures, words: f"{len(found)} pictures." if found else "No picture of this collection is flagged so."}

    gr.on([shown.expand, flag.input, collection.input], on_show, [flag, collection], [gallery, words], **PRIVATE, concurrency_id="rank")


def flag_line(one: Flagged) -> str:
    return f"{', '.join(FLAGS[flag] for flag in one.flags)} ({', '.join(one.annotators)}): {one.prompt}"


def create_maker(studio: RankingApi) -> Maker:
    """The form of new tasks."""
    menu = menu_of(studio, text=True)
    with gr.Accordion("Make tasks", open=False, elem_id="rank-make") as shown:
        parts: dict[str, Any] = {
            "prompts": gr.Textbox(label="Prompts", lines=4, max_lines=12, info="One on each line; each becomes a task.", elem_id="rank-prompts"),
            "suggest": gr.Button("Take ten of the toy world", size="sm", elem_id="rank-suggest"),
            "models": unchecked(gr.Dropdown(menu, value=[menu[0][1]] if menu else [], multiselect=True, label="Models", elem_id="rank-models",
                                            info="The pictures of a task are shared out among them.")),
            "pictures": unchecked(gr.Slider(2, 9, 4, step=1, label="Pictures of a task", elem_id="rank-pictures")),
            "steps": gr.Number(20, precision=0, label="Steps", elem_id="rank-steps"),
            "guidance": unchecked(gr.Slider(1, 15, 4, step=0.5, label="Guidance", elem_id="rank-guidance")),
            "seed": gr.Number(0, precision=0, label="Seed", info="The same seed again goes on where it ended.", elem_id="rank-seed"),
            "overlap": gr.Number(1, precision=0, label="Annotators for each task", elem_id="rank-overlap"),
            "collection": gr.Textbox("mine", label="Into the collection", max_lines=1, elem_id="rank-into"),
        }
        parts["drawn"] = gr.Button("Rank what was just drawn", size="sm", elem_id="rank-drawn")
        with gr.Row(elem_classes="ds-press"):
            parts["make"] = gr.Button("Make", variant="primary", elem_id="rank-make-run", min_width=80)
            parts["stop"] = gr.Button("Stop", elem_id="rank-make-stop", min_width=60)
        parts["status"] = gr.HTML(elem_id="rank-status", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
    return Maker(shown=shown, **parts)


def create_mover() -> Mover:
    """The form of exports and imports."""
    words: dict[str, Any] = {"padding": False, "apply_default_css": False, "js_on_load": None}
    with gr.Accordion("Export, import", open=False, elem_id="rank-move"):
        format = unchecked(gr.Dropdown([(one.label, name) for name, one in IMPORTS.items()], value="studio", label="Format", elem_id="rank-format"))
        loses = gr.HTML(KEEPS_ALL, elem_id="rank-loses", elem_classes="ds-status", **words)
        export = gr.Button("Export", size="sm", elem_id="rank-export")
        exported = gr.File(label="Exported", interactive=False, visible=False, height=60, elem_id="rank-exported")
        with gr.Column(elem_id="rank-import"):
            opened = gr.UploadButton("Import a file of this format", size="sm", file_types=[".zip", ".json", ".jsonl", ".csv", ".parquet"])
        with gr.Accordion("A data set of the Hub", open=False, elem_id="rank-hub"):
            dataset = gr.Textbox(
                label="Data set", placeholder="owner/name", max_lines=1, elem_id="rank-dataset", info="In the format above. A new one is private.",
            )
            token = gr.Textbox(label="Your token", type="password", max_lines=1, elem_id="rank-token", info="Used for this press alone, and not kept.")
            with gr.Row(elem_classes="ds-press"):
                push = gr.Button("Write", size="sm", elem_id="rank-push", min_width=60)
                pull = gr.Button("Read", size="sm", elem_id="rank-pull", min_width=60)
        status = gr.HTML(elem_id="rank-move-status", elem_classes="ds-status", **words)
    return Mover(
        format=format, loses=loses, export=export, exported=exported, opened=opened, dataset=dataset, token=token, push=push, pull=pull, status=status,
    )


def wire_board(studio: RankingApi, board: gr.HTML, name: gr.Textbox, collection: gr.Dropdown, choose: gr.Dropdown) -> None:
    """Tie the board to the rankings: it asks for tasks when it is first seen, and for the next with each answer."""
    known: dict[str, str] = {}

    def address(sha256: str, suffix: str) -> str:
        if sha256 not in known:
            known[sha256] = f"gradio_api/file={board.move_resource_to_block_cache(picture_path(studio.rankings.folder, sha256, suffix))}"
        return known[sha256]

    def on_act(name: str, chosen: str, next_by: str, request: gr.Request, event: gr.EventData) -> dict[Any, Any]:
        who = annotator_name(name, request)
        try:
            begin(studio)
            answer = acted(studio, who, event)
            return {board: board_value(studio, address, who, chosen, next_by, **answer), collection: menu(studio)}
        except StudioError as error:
            return {board: to_stage({"error": str(error), "tasks": None}), collection: gr.skip()}

    board.submit(on_act, [name, collection, choose], [board, collection], trigger_mode="multiple", concurrency_id="rank", concurrency_limit=4, **PRIVATE)
    gr.on([name.change, collection.input], None, [name, collection], board, js="(name, collection) => window.Studio.rankAs(name, collection)", **CHEAP)
    choose.input(None, None, board, js="() => window.Studio.askForTasks()", **CHEAP)
    gr.on(None, None, [name, collection], [name, collection], js=REMEMBERED, **CHEAP)


def begin(studio: RankingApi) -> None:
    """An empty database begins with the example; tasks whose making was cut off are made on."""
    if not collections(studio.rankings):
        add_example(studio.rankings)
    if not studio.makings.running():
        studio.makings.resume()


def menu(studio: RankingApi) -> Any:
    """The collections there are, with the number of their tasks."""
    return gr.update(choices=[ALL, *((f"{name} ({count} tasks)", name) for name, count in collections(studio.rankings).items())])


def wire_maker(studio: RankingApi, maker: Maker, collection: gr.Dropdown) -> None:
    """Tie the form to the making of tasks."""
    def on_make(values: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        with said_in_a_sentence():
            options = task_options(*(values[part] for part in maker.asked))
            making = studio.makings.start(asker_of(request).visitor, options)
            yield {maker.status: "Drawing the first prompt; it goes on when this page is closed."}
            # Who goes stops following, not the making.
            for event in making.followed():
                yield told_of(event)
        if making.stop.is_set():
            return
        yield {maker.status: f"{len(options.prompts)} tasks are in the collection {options.collection}.", collection: gr.update(value=options.collection)}

    def told_of(event: TaskMade | Waiting) -> dict[Any, Any]:
        if isinstance(event, Waiting):
            return {maker.status: waiting_line(event)}
        return {maker.status: f"Task {event.index + 1} of {event.total}{'' if event.new else ' was there already'}.", collection: menu(studio)}

    def on_stop(request: gr.Request) -> str:
        # On a studio of one's own a page that was opened anew stops what the one before it began.
        if studio.makings.stop(asker_of(request).visitor if studio.public else ""):
            return "Stopping after this task; those that were made stay. Make goes on with the same options."
        return "No tasks are being made."

    def on_drawn(into: str, overlap: float, request: gr.Request) -> dict[Any, Any]:
        with said_in_a_sentence():
            run = last_run(studio, asker_of(request).page)
            new = add_drawn(studio.rankings, run.options, run.images, (into or "").strip() or "mine", overlap)  # type: ignore[arg-type]
        said = f"The {len(run.images)} pictures of the run that was drawn last are {'a task' if new else 'a task already'}."
        return {maker.status: said, collection: gr.update(value=(into or "").strip() or "mine", choices=menu(studio)["choices"])}

    ranked = maker.drawn.click(on_drawn, [maker.collection, maker.overlap], [maker.status, collection], **PRIVATE, concurrency_id="rank")
    ranked.success(None, None, None, js="() => window.Studio.askForTasks()", **CHEAP)
    # It only follows: the making has its own turns on the device.
    following: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal", "concurrency_id": "making", "concurrency_limit": None}
    making = maker.make.click(on_make, {*maker.asked}, [maker.status, collection], **following)
    making.success(None, None, None, js="() => window.Studio.askForTasks()", **CHEAP)
    maker.stop.click(on_stop, None, maker.status, **CHEAP)
    maker.shown.expand(lambda: making_line(studio), None, maker.status, **CHEAP)
    maker.suggest.click(lambda seed: "\n".join(toybox_prompts(10, int(seed or 0))), maker.seed, maker.prompts, **CHEAP)


def making_line(studio: RankingApi) -> str:
    """What is being made now; "" where there is nothing."""
    lines = [
        f"Making tasks for {making.options.collection}: {making.last.index + 1 if isinstance(making.last, TaskMade) else 0} of {len(making.options.prompts)}."
        for making in studio.makings.running()
    ]
    return " ".join(lines)


def task_options(
    prompts: str, models: list[str], pictures: int, steps: float, guidance: float, seed: float, overlap: float, collection: str,
) -> TaskOptions:
    """What the form says. Raises InvalidOption."""
    lines = [line.strip() for line in (prompts or "").splitlines() if line.strip()]
    sampling = SampleOptions(model=models[0] if models else "", num_steps=steps, guidance_scale=guidance)  # type: ignore[arg-type]
    return TaskOptions(
        prompts=lines, models=models or [], sampling=sampling, pictures=pictures, seed=seed, overlap=overlap,  # type: ignore[arg-type]
        collection=(collection or "").strip() or "mine",
    )


def wire_mover(studio: RankingApi, mover: Mover, collection: gr.Dropdown) -> None:
    """Tie exports and imports to the rankings."""
    def on_export(format: str, chosen: str, request: gr.Request) -> Iterator[dict[Any, Any]]:
        with said_in_a_sentence(), passing_folder() as folder:
            require_own(studio, request)
            path = folder / f"rankings-{format}.zip"
            count = export_rankings(studio.rankings, format, path, chosen)
            # Gradio copies the file before it goes on.
            yield {mover.exported: gr.update(value=str(path), visible=True), mover.status: f"{count} tasks are in {path.name}."}

    def on_import(path: str | None, format: str, chosen: str, request: gr.Request) -> dict[Any, Any]:
        with said_in_a_sentence():
            require_own(studio, request)
            if path is None:
                raise InvalidOption("No file was given; choose one that was exported.")
            found = import_rankings(studio.rankings, format, path, chosen or "imported")
        return {mover.status: f"{found.tasks} tasks and {found.rankings} rankings were new.", collection: menu(studio)}

    moving: dict[str, Any] = {**PRIVATE, "concurrency_id": "files"}
    mover.format.input(lambda format: (IMPORTS[format].loses or KEEPS_ALL) if format in IMPORTS else "", mover.format, mover.loses, **CHEAP)
    exported = mover.export.click(on_export, [mover.format, collection], [mover.exported, mover.status], **moving)
    exported.success(None, mover.exported, None, js=DOWNLOAD, **CHEAP)
    brought = mover.opened.upload(on_import, [mover.opened, mover.format, collection], [mover.status, collection], **moving)
    brought.success(None, None, None, js="() => window.Studio.askForTasks()", **CHEAP)
    wire_hub(studio, mover, collection, moving)


def wire_hub(studio: RankingApi, mover: Mover, collection: gr.Dropdown, moving: dict[str, Any]) -> None:
    """Tie a data set of the Hub to the rankings."""
    def on_push(name: str, token: str, format: str, chosen: str, request: gr.Request) -> dict[Any, Any]:
        with said_in_a_sentence():
            require_token(studio, token, request)
            count = push_rankings(studio.rankings, (name or "").strip(), token or "", format, chosen)
        return {mover.status: f"{count} tasks are in the data set {escape(name.strip())}.", mover.token: ""}

    def on_pull(name: str, token: str, format: str, chosen: str, request: gr.Request) -> dict[Any, Any]:
        with said_in_a_sentence():
            require_token(studio, token, request)
            found = pull_rankings(studio.rankings, (name or "").strip(), token or "", format, chosen or "imported")
        return {mover.status: f"{found.tasks} tasks and {found.rankings} rankings were new.", mover.token: "", collection: menu(studio)}

    given = [mover.dataset, mover.token, mover.format, collection]
    mover.push.click(on_push, given, [mover.status, mover.token], **moving)
    pulled = mover.pull.click(on_pull, given, [mover.status, mover.token, collection], **moving)
    pulled.success(None, None, None, js="() => window.Studio.askForTasks()", **CHEAP)


def require_token(studio: RankingApi, token: str, request: gr.Request | None) -> None:
    """On a public studio nobody acts by its owner's token. Raises InvalidOption."""
    require_own(studio, request)
    if studio.public and not token:
        raise InvalidOption("Give a token of your own for the Hub; this studio's is not lent.")


def annotator_name(name: str, request: gr.Request | None) -> str:
    """Who ranks: the user where one has signed in, else as they call themselves."""
    return getattr(request, "username", None) or name


def require_own(studio: RankingApi, request: gr.Request | None) -> None:
    """Files of everybody's rankings are not for strangers. Raises InvalidOption."""
    if studio.public and not getattr(request, "username", None):
        raise InvalidOption("On a public studio rankings are exported and imported only by who has signed in; start the studio on your own machine.")
