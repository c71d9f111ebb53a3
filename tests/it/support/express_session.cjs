// A login of express-session in Redis (connect-redis): prints the cookie that a browser would get, then stays until the
// standard input ends; `destroy` on it ends the session, as a service that logs somebody out does.
const express = require('express');
const session = require('express-session');
const { default: RedisStore } = require('connect-redis');
const { createClient } = require('redis');

const [url, secret] = process.argv.slice(2);
const client = createClient({ url });
client.connect().then(() => {
  const app = express();
  app.use(session({ store: new RedisStore({ client }), secret, resave: false, saveUninitialized: false }));
  app.post('/login', (request, response) => {
    request.session.userId = 'kim';
    request.session.roles = ['customer'];
    response.end('in');
  });
  app.post('/logout', (request, response) => request.session.destroy(() => response.end('out')));
  const server = app.listen(0, '127.0.0.1', async () => {
    const base = `http://127.0.0.1:${server.address().port}`;
    const answer = await fetch(`${base}/login`, { method: 'POST' });
    const cookie = answer.headers.get('set-cookie').split(';')[0];
    console.log(cookie);
    process.stdin.on('data', async () => {
      await fetch(`${base}/logout`, { method: 'POST', headers: { cookie } });
      console.log('destroyed');
    });
    process.stdin.on('end', () => process.exit(0));
  });
});
