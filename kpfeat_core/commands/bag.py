"""`kpfeat bag`: what recordings hold, and the features of every image in them."""

import typer

from .bag_extract import EPILOG as EXTRACT_EPILOG
from .bag_extract import extract
from .bag_info import EPILOG as INFO_EPILOG
from .bag_info import info
from .bag_match import EPILOG as MATCH_EPILOG
from .bag_match import match
from .bag_render import EPILOG as RENDER_EPILOG
from .bag_render import render
from .bag_stats import EPILOG as STATS_EPILOG
from .bag_stats import stats
from .common import prose

app = typer.Typer(help='Features of every image of a recording.', no_args_is_help=True)
app.command('info', help=prose(info), epilog=INFO_EPILOG)(info)
app.command('extract', help=prose(extract), epilog=EXTRACT_EPILOG)(extract)
app.command('match', help=prose(match), epilog=MATCH_EPILOG)(match)
app.command('render', help=prose(render), epilog=RENDER_EPILOG)(render)
app.command('stats', help=prose(stats), epilog=STATS_EPILOG)(stats)
