"""Stub."""
from __future__ import annotations
from typing import Any, NamedTuple
import jax, jax.numpy as jnp, numpy as np
from eoslib.status import Status
class ComplementarityStatus(Status):
    SOLVED = "solved"
    UNSOLVED = "unsolved"
class Multiplier(NamedTuple):
    value: Any; slack: Any; residual: Any; iterations: Any; status: Any
def svec(z):
    k=z.shape[-1]; i,j=np.triu_indices(k)
    return z[...,i,j]*jnp.asarray(np.where(i==j,1,2**.5),z.dtype)
def smat(z):
    n=z.shape[-1]; k=int(((8*n+1)**.5-1)/2); i,j=np.triu_indices(k)
    w=z/jnp.asarray(np.where(i==j,1,2**.5),z.dtype)
    m=jnp.zeros((*z.shape[:-1],k,k),z.dtype).at[...,i,j].set(w)
    return m.at[...,j,i].set(w)
def rotation(q):
    k,m=q.shape; e=jnp.eye(m*(m+1)//2,dtype=q.dtype)
    return jax.vmap(lambda r: svec(q@smat(r)@q.T),out_axes=1)(e)
def solve(gram,slack,start=None):
    k=slack.shape[0]
    if k==1:
        b=gram[0,0]; e=jnp.maximum(-slack[0,0],0); ok=b>e/jnp.finfo(b.dtype).max
        c=jnp.where(ok,e/jnp.where(ok,b,1),0)[None,None]
        return Multiplier(c,slack+gram*c,jnp.zeros((),b.dtype),jnp.zeros((),jnp.int32),jnp.zeros((),jnp.int32))
    n=gram.shape[0]; g=jnp.trace(gram)/n; sb=jnp.abs(slack).max(); G=gram/g+1e-7*jnp.eye(n,dtype=gram.dtype); B=svec(slack/sb)
    def F(w):
        M=smat(w-B-G@w); v,Q=jnp.linalg.eigh(M); p=jnp.maximum(v,0)
        d=v[:,None]-v[None]; om=jnp.where(d==0,(v>0)[:,None],(p[:,None]-p[None])/jnp.where(d==0,1,d))
        K=rotation(Q); return w-svec((Q*p)@Q.T), K@(svec(om)/svec(jnp.ones((k,k),w.dtype)))[:,None]*0+K*(svec(om)/svec(jnp.ones((k,k),w.dtype)))@K.T
    def it(c):
        w,i,_=c
        f,D=F(w); d=-jnp.linalg.solve(jnp.eye(n,dtype=w.dtype)-D@(jnp.eye(n,dtype=w.dtype)-G),f)
        return w+d,i+1,jnp.linalg.norm(F(w+d)[0])
    w0=jnp.zeros(n,gram.dtype) if start is None else svec(start)*g/sb
    w,i,r=jax.lax.while_loop(lambda c:(c[2]>3e-6)&(c[1]<30),it,(w0,jnp.zeros((),jnp.int32),jnp.linalg.norm(F(w0)[0])))
    W=smat(w)*sb/g
    return Multiplier(W,slack+smat(gram@svec(W)),r,i,(r>1e-4).astype(jnp.int32))
