// The line: one EventSource, a ring of recent durable events, and back-off. Runs in the SharedWorker, or in the
// leading tab where there is none. It tells its listeners:
//   {type:'status', conn:'live'|'reconnecting'|'offline', newsAt, attempt, nextAt}
//   {type:'frame', kind, id, data}        {type:'resync'}
const BACKOFF = [1000, 2000, 4000, 8000, 15000];
const OFFLINE_MS = 60000;
const OPENING_MS = 10000; // an answer that has not begun by then will not come: the other end sleeps or is gone
const SILENT_MS = 20000; // the machine's numbers come every 2 s, so a line this silent is dead
const RING = 500;
const PASSING = ['tick', 'forge', 'shown', 'snapshot', 'reset']; // without an id, never told again

export class Line {
  /** @param {{kinds: string[], after: number, tell: (message: object) => void}} options */
  constructor({kinds, after, tell}) {
    this.kinds = kinds;
    this.last = after;
    this.tell = tell;
    this.ring = [];
    this.ringFrom = after; // every durable event above this id is in the ring
    this.attempt = 0;
    this.newsAt = Date.now();
    this.lostAt = 0;
    this.conn = 'connecting';
    this.timer = 0;
    this.latest = {}; // newest tick and machine sample, for tabs that come later
    this.open();
    setInterval(() => this.watch(), 1000);
  }

  open() {
    clearTimeout(this.timer);
    this.nextAt = 0;
    this.source?.close();
    const source = new EventSource(`/api/stream?last_event_id=${this.last}`);
    this.source = source;
    this.openedAt = Date.now();
    source.onopen = () => {
      const again = this.lostAt > 0;
      this.attempt = 0;
      this.lostAt = 0;
      this.news();
      this.status('live');
      if (again) this.tell({type: 'resync'}); // ticks of the gap are gone: panels ask for the present state
    };
    source.onerror = () => {
      if (this.source === source) this.lost();
    };
    for (const kind of [...this.kinds, ...PASSING]) {
      source.addEventListener(kind, event => this.take(kind, event));
    }
  }

  take(kind, event) {
    this.news();
    const data = JSON.parse(event.data);
    const durable = !PASSING.includes(kind);
    if (kind === 'reset') {
      this.ring = [];
      this.tell({type: 'resync'});
      return;
    }
    if (kind === 'snapshot') {
      this.last = this.ringFrom = data.event_id;
      this.ring = [];
      return;
    }
    const frame = {type: 'frame', kind, id: durable ? data.id : null, data};
    if (durable) {
      if (data.id <= this.last) return;
      this.last = data.id;
      this.ring.push(frame);
      if (this.ring.length > RING) this.ringFrom = this.ring.shift().id;
    } else if (kind !== 'shown') {
      this.latest[kind] = frame;
    }
    this.tell(frame);
  }

  news() {
    this.newsAt = Date.now();
  }

  lost() {
    this.source.close();
    this.lostAt ||= Date.now();
    const wait = BACKOFF[Math.min(this.attempt, BACKOFF.length - 1)] * (0.8 + 0.4 * Math.random());
    this.attempt += 1;
    this.nextAt = Date.now() + wait;
    this.timer = setTimeout(() => this.open(), wait);
    this.status(this.lostFor() > OFFLINE_MS || !navigator.onLine ? 'offline' : 'reconnecting');
  }

  lostFor() {
    return this.lostAt ? Date.now() - this.lostAt : 0;
  }

  watch() {
    // A connection whose other end vanished (sleep, a pulled cable) reports no error of its own.
    const silent = this.source.readyState === EventSource.OPEN && Date.now() - this.newsAt > SILENT_MS;
    const stuck = this.source.readyState === EventSource.CONNECTING && Date.now() - this.openedAt > OPENING_MS;
    if (silent || stuck) this.lost();
    if (this.conn === 'reconnecting' && this.lostFor() > OFFLINE_MS) this.status('offline');
  }

  status(conn) {
    this.conn = conn;
    this.tell(this.now());
  }

  now() {
    return {type: 'status', conn: this.conn, newsAt: this.newsAt, attempt: this.attempt, nextAt: this.nextAt};
  }

  /** What a tab that was rendered at event `after` has to hear to be up to date. */
  since(after) {
    const known = after >= this.ringFrom ? this.ring.filter(frame => frame.id > after) : [{type: 'resync'}];
    return [this.now(), ...known, ...Object.values(this.latest)];
  }

  retry() {
    if (this.conn !== 'live') this.open();
  }
}
