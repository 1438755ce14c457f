// One line for all tabs of this browser: with a line per tab the seventh would never load (six connections per host).
import {Line} from './line.core.js';

const ports = new Set();
let line = null;

const tell = message => {
  for (const port of ports) port.postMessage(message);
};

onconnect = connection => {
  const port = connection.ports[0];
  port.onmessage = ({data}) => {
    if (data.type === 'hello') {
      line ||= new Line({kinds: data.kinds, after: data.after, tell});
      ports.add(port);
      for (const message of line.since(data.after)) port.postMessage(message);
    } else if (data.type === 'retry') {
      line?.retry();
    } else if (data.type === 'bye') {
      ports.delete(port);
    }
  };
  port.start();
};
