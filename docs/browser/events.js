// Follows channels over server-sent events, also after an answer that ends an EventSource for good, such as one 502.
//
//   const {close} = followEvents("/hub/events?channels=prices,alerts", (item) => {...}, (text) => {...});
function followEvents(url, onItem, onState = () => {}) {
  let source, timer, cursor = "";
  function connect() {
    source = new EventSource(url + (cursor && `${url.includes("?") ? "&" : "?"}cursor=${encodeURIComponent(cursor)}`));
    source.onopen = () => onState("connected");
    source.onerror = () => {
      onState("disconnected");  // a browser tries again by itself, except after a status other than 200
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(connect, 1000 + 2000 * Math.random());
    };
    source.addEventListener("batch", (event) => {
      cursor = event.lastEventId || cursor;  // where a new EventSource continues
      JSON.parse(event.data).forEach(onItem);
    });
  }
  connect();
  return { close() { clearTimeout(timer); source.close(); } };
}
