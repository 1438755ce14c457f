// Entry of every page: parts first, then the line, so that nothing that is told is missed.
import * as board from './board.js';
import * as charts from './charts.js';
import * as jobs from './jobs.js';
import {connect} from './line.js';
import * as live from './live.js';
import * as orders from './orders.js';
import * as stage from './stage.js';
import * as tokens from './tokens.js';
import * as ui from './ui.js';

for (const part of [ui, live, orders, board, stage, charts, tokens, jobs]) part.start();
connect();
