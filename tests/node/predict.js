// Asks a server for a prediction with the JavaScript client, and prints the answer as JSON.
//
//     node tests/node/predict.js 127.0.0.1:8500 half_plus_two '[1, 2, 5]' [DEADLINE_MILLIS]
//
// On an error prints {"code": ..., "details": ...} and ends with status 1.
"use strict";

const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, model, values, deadlineMillis = "30000"] = process.argv.slice(2);
const numbers = JSON.parse(values);

const definition = loader.loadSync("tensorflow_serving/apis/prediction_service.proto", {
  includeDirs: [path.join(__dirname, "..", "..", "protos")],
  keepCase: true,
  longs: Number,
  enums: String,
});
const { PredictionService } = grpc.loadPackageDefinition(definition).tensorflow.serving;

const client = new PredictionService(address, grpc.credentials.createInsecure(), {
  "grpc.max_receive_message_length": -1,
});
const request = {
  model_spec: { name: model },
  inputs: {
    x: {
      dtype: "DT_FLOAT",
      tensor_shape: { dim: [{ size: numbers.length }] },
      float_val: numbers,
    },
  },
};

const deadline = Date.now() + Number(deadlineMillis);
client.Predict(request, { deadline }, (error, response) => {
  if (error) {
    console.log(JSON.stringify({ code: error.code, details: error.details }));
    process.exitCode = 1;
  } else {
    console.log(JSON.stringify(response));
  }
  client.close();
});
