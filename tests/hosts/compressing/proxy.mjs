// `node proxy.mjs PORT TARGET`: forwards requests as development servers and backends for frontends do.
import http from "node:http";
import compression from "compression";

const [port, target] = process.argv.slice(2);
const compress = compression({ threshold: 0 });

http
  .createServer((request, response) => {
    compress(request, response, () => {
      const { method, headers } = request;
      const forwarded = http.request(target + request.url, { method, headers }, (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      });
      forwarded.on("error", () => response.destroy());
      response.on("close", () => forwarded.destroy());
      request.pipe(forwarded);
    });
  })
  .listen(Number(port), "127.0.0.1");
