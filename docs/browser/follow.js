// Follows channels of a hub over a WebSocket: reconnects, resumes where it was, and counts what was missed.
//
//   const {close} = follow(url, {prices: {}, alerts: {last: 10}}, {onItem, onGap, onState, token});
//
// It calls onItem(item), onGap(channel, count) with null if that cannot be counted, and onState(text).
// token(), if there is one, returns a valid token before each connection.
function follow(url, channels, { onItem, onGap = () => {}, onState = () => {}, token }) {
  const FINAL = new Set([1000, 1002, 1007, 1009, 4400, 4401, 4403]);  // another attempt would end the same way
  const positions = {};  // of each channel, what was received
  const starts = {};     // where a channel goes on after a gap that is still to come
  let socket, attempts = 0, isClosed = false;
  channels = { ...channels };

  const select = (channel) => {
    const { max_hz, ...start } = channels[channel];
    return { channel, max_hz, ...(positions[channel] ? { since: positions[channel] } : start) };
  };
  const subscribe = (names) => socket.send(JSON.stringify({ action: "subscribe", channels: names.map(select) }));
  const end = (channel, reason) => { delete channels[channel]; onState(`${channel}: ${reason}`); };

  function accept({ channel, ok, epoch, seq, recovered, code, message }) {
    const position = positions[channel];
    if (!ok && code === "bad-request" && position) {  // the hub has lost its newest items
      delete positions[channel];
      onGap(channel, null);
      subscribe([channel]);
    } else if (!ok) end(channel, message);
    else if (!position) positions[channel] = { epoch, seq };
    else if (!recovered) starts[channel] = { epoch, seq };
  }

  function skip({ channel, to, count, epoch }) {
    const position = positions[channel];
    if (!epoch) positions[channel] = { epoch: position.epoch, seq: Math.max(position.seq, to) };
    else positions[channel] = starts[channel] ?? (epoch.new === position.epoch ? position : { epoch: epoch.new, seq: 0 });
    delete starts[channel];
    onGap(channel, count);
  }

  function connect() {
    const opened = Date.now();
    let heartbeat = 20, slot, silence;
    const lost = (code, reason) => {
      clearTimeout(silence);
      socket.onmessage = socket.onclose = null;
      socket.close();
      if (isClosed || FINAL.has(code)) return onState(`closed: ${code} ${reason}`);
      if (Date.now() - opened > 10_000) attempts = 0;
      onState(`disconnected: ${code} ${reason}`);
      setTimeout(connect, slot ?? Math.random() * Math.min(30_000, 500 * 2 ** attempts++));
    };
    const listen = () => {  // a browser does not notice that its peer has vanished
      clearTimeout(silence);
      silence = setTimeout(lost, heartbeat * 3000, 1006, "no heartbeat");
    };
    const receive = (item) => {
      if (item.type === "$hello") heartbeat = item.heartbeat;
      else if (item.type === "$subscribed") item.channels.forEach(accept);
      else if (item.type === "$unsubscribed") item.channels.forEach(({ channel }) => end(channel, item.reason));
      else if (item.type === "$gap") skip(item);
      else if (item.type === "$drain") slot = item.in * 1000;  // then, and not when all the others do
      else if (item.type === "$error") onState(`${item.code}: ${item.message}`);
      else if (!item.type.startsWith("$") && item.seq > positions[item.channel].seq) {
        positions[item.channel].seq = item.seq;
        onItem(item);
      }
    };
    if (isClosed) return;
    socket = new WebSocket(url, ["analytics-hub.v1.json", ...(token ? [`bearer.${token()}`] : [])]);
    socket.onopen = () => { onState("connected"); subscribe(Object.keys(channels)); };
    socket.onmessage = (event) => { JSON.parse(event.data).forEach(receive); listen(); };
    socket.onclose = (event) => lost(event.code, event.reason);
    listen();
  }

  connect();
  return { close() { isClosed = true; socket.close(1000); } };
}
