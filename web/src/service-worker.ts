// Keeps all files of the page, so that it works offline, and adds what a static host may not send: headers that allow
// threads and forbid connections to anywhere else.

export {}; // a module: its names are not global

declare const self: ServiceWorkerGlobalScope;
declare const FILES: string[]; // paths relative to the page
declare const VERSION: string; // of all files together
declare const POLICY: string;

const CACHE = `posedet-${VERSION}`;

self.addEventListener("install", (event) => {
  void self.skipWaiting();
  // The names of all others change with their content, so that the browser's own cache may have them.
  const requests = ["./", ...FILES].map((path) =>
    path.startsWith("assets/") ? path : new Request(path, { cache: "no-cache" }),
  );
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)));
});

self.addEventListener("activate", (event) => {
  const forget = async () => {
    for (const name of await caches.keys()) {
      if (name.startsWith("posedet-") && name !== CACHE) await caches.delete(name);
    }
    await self.clients.claim();
  };
  event.waitUntil(forget());
});

self.addEventListener("fetch", (event) => {
  const path = event.request.url.split(/[?#]/)[0].slice(self.registration.scope.length);
  // What else the host has is not ours.
  if (path === "" || FILES.includes(path)) event.respondWith(respond(event.request));
});

async function respond(request: Request): Promise<Response> {
  const cache = await caches.open(CACHE);
  const response = (await cache.match(request, { ignoreSearch: true, ignoreVary: true })) ?? (await fetch(request));
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Content-Security-Policy", `${POLICY}; frame-ancestors 'none'`);
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}
