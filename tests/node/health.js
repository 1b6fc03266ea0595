// Watches a name of grpc.health.v1 with the JavaScript client, and prints what it is told as JSON.
//
//     node tests/node/health.js 127.0.0.1:8500 model/half_plus_two
//
// Prints {"status": ...} for each message, and {"code": ..., "details": ...} at the end.
"use strict";

const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, service] = process.argv.slice(2);

const definition = loader.loadSync("grpc/health/v1/health.proto", {
  includeDirs: [path.join(__dirname, "..", "..", "protos")],
  enums: String,
});
const { Health } = grpc.loadPackageDefinition(definition).grpc.health.v1;

const client = new Health(address, grpc.credentials.createInsecure());
const call = client.Watch({ service });
call.on("data", (response) => console.log(JSON.stringify(response)));
call.on("error", () => {}); // the status says the same
call.on("status", ({ code, details }) => {
  console.log(JSON.stringify({ code, details }));
  client.close();
});
